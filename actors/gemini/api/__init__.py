"""Build and send requests to Gemini and read its answers; retries and quotas are handled elsewhere."""
