"""Requests to Gemini and its answers, without patience and without counting."""
