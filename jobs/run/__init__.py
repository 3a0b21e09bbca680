"""What a run is made of, from its settings to its summary."""
