"""Crops to attributes, by Gemini, within a quota."""
