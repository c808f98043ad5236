"""The built-in networks, and search spaces by name. To add a backbone: one file, one registered function."""
