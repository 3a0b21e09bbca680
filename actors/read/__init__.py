"""Shards to frames: where they lie, what is in them, and what is wrong with them."""
