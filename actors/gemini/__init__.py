"""Annotation of crops by Gemini, within a quota."""
