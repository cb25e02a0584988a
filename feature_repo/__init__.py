"""Features: their declarations (the catalogue) and their stores."""
