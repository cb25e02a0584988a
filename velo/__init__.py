"""VÉLØ: a streaming feature store for horse racing."""
