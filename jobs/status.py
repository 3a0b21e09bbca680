"""`shopframe status`, for `python -m jobs.status`."""

from jobs.cli import main_of

if __name__ == "__main__":
    main_of("status")
