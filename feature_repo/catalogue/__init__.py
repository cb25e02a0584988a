"""What a feature is: each family declared once, and what is computed from it at request time and within a race."""
