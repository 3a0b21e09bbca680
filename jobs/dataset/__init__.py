"""Data sets to train on, made of the final values."""
