"""`shopframe shards`, for `python -m jobs.shards`."""

from jobs.cli import main_of

if __name__ == "__main__":
    main_of("shards")
