"""`shopframe consolidate`, for `python -m jobs.consolidate`."""

from jobs.cli import main_of

if __name__ == "__main__":
    main_of("consolidate")
