"""`shopframe erase`: remove persons from everything that an output holds."""
