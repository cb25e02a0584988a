"""The market: probabilities from odds, blends with a model, calibration."""
