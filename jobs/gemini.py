"""`shopframe gemini`, for `python -m jobs.gemini`."""

from jobs.cli import main_of

if __name__ == "__main__":
    main_of("gemini")
