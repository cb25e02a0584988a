"""The Python interface: a store as an object, whose methods the commands call too."""
