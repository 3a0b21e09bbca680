"""Persons that were erased: how they are recognised, and left out of what is detected."""
