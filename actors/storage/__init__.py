"""Store the results: objects, their paths and tables, and the commit records."""
