"""The sport's own rules: messages, measures of a start, going, distances, odds, names. Standard library only."""
