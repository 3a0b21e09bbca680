"""A local page on which people look at persons and correct them."""
