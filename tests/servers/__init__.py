"""Servers on loopback, for tests and for trying things out."""
