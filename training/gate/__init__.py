"""The gate: criteria, pass probabilities, verdicts and its controls."""
