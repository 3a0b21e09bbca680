"""Training of the demo's models, and measurement of their accuracy."""
