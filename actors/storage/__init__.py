"""The storage of results: objects, their paths, their tables, and the commit record."""
