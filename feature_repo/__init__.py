"""What a feature is and where it is kept: the catalogue, the Feast definitions made from it, and the two stores."""
