"""From point-in-time data set to gated bundle."""
