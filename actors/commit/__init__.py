"""The commit stage: write a shard's results as objects, and the commit record that makes them valid."""
