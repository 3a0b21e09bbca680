"""The embedded demo: simulated store cameras with known truth, and small models trained on their frames."""
