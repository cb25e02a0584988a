"""Scoring a race and showing it: reads the stores and a training bundle, and nothing else of the other stages."""
