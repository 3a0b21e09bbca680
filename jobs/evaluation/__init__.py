"""How good the committed output is beside a truth table: reading, measures, plots."""
