"""The backlog: finding the persons that Gemini has not answered yet, and getting their answers."""
