"""The built-in search spaces: YAML files, and under `tables/` their stored outlines."""
