"""Groups of crops that show the same person: one is asked about, and the others inherit its answer."""
