"""Crops to attributes, by a local model."""
