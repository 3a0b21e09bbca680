"""Where results go: objects, their names, their tables and the record that makes them count."""
