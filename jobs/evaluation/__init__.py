"""Evaluation of the committed output against a ground-truth table: reading, measures and plots."""
