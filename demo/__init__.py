"""The embedded demo: simulated store cameras whose truth is known, and small models trained on them."""
