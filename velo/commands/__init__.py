"""The commands: each opens the store, calls a stage, and shows its report. The only part of velo that imports stages."""
