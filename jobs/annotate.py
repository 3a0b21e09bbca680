"""`shopframe annotate`, for `python -m jobs.annotate`."""

from jobs.cli import main_of

if __name__ == "__main__":
    main_of("annotate")
