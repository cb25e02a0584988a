"""The mappings that come with VÉLØ, one TOML file each; docs/mappings.md describes their entries."""
