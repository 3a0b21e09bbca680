"""What may be sent to Gemini now, counted in the bucket."""
