"""What it costs: what `velo bench` measures, and the harm that it does to a store. Figures are printed, never asserted."""
