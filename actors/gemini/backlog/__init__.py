"""Persons that Gemini has not answered yet: who they are, and their way to an answer."""
