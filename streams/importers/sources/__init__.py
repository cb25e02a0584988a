"""The importers that come with VÉLØ, one module each: `velo.streams.importers.registry` finds them by their file name."""
