"""Reading: list the shards of the input, read their frames, and report what is wrong with them."""
