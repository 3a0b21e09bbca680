"""The stages a shard passes through: read, detect, select, annotate, commit."""
