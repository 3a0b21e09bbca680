"""Read the input: list its shards, read their frames, and report what is wrong with them."""
