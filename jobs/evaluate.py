"""`shopframe evaluate`, for `python -m jobs.evaluate`."""

from jobs.cli import main_of

if __name__ == "__main__":
    main_of("evaluate")
