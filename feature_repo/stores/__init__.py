"""The online and offline stores: Feast plug-ins, and where a home keeps what."""
