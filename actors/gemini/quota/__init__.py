"""Limit the requests to Gemini by counting them in a ledger in the bucket."""
