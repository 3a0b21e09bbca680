"""Exchange persons with tools in which people look at labels and correct them."""
