"""What it costs: each module is one `velo bench` command. Figures are printed, never asserted."""
