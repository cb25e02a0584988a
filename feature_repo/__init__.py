"""What a feature is (the catalogue) and where it is kept (the stores)."""
