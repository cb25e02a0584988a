"""The declarations of features: each family once, and the features computed from it at request time and within a race."""
