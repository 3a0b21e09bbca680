"""`shopframe config`, for `python -m jobs.config`."""

from jobs.cli import main_of

if __name__ == "__main__":
    main_of("config")
