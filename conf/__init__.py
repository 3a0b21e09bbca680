"""The shipped configuration files, importable so that an installed package finds them."""
