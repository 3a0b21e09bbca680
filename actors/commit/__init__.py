"""A shard's results to objects and the record that makes them count."""
