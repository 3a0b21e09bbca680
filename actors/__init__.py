"""The stages that a shard passes through: read, detect, select, annotate and commit."""
