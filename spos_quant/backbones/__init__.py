"""The built-in networks and search spaces. To add a backbone, write one file with one registered function."""
