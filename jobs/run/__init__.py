"""The parts of a run, from its settings to its summary."""
