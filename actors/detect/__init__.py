"""Frames to persons: detection, region of interest, crops."""
