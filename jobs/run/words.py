"""Numbers and lists in the words of a message."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 shard" or "1,200 shards"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def wait_of(persons: int) -> str:
    """Return who waits, such as "1 person waits" or "12 persons wait"."""
    return f"{counted(persons, 'person')} {'waits' if persons == 1 else 'wait'}"


def first_of(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3:,} more"


def time_in_words(seconds: float) -> str:
    """Return a length or a sum of times in a unit in which it isn't rounded away, such as "2.5 hours"."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} seconds" if 0 < seconds < 10 else f"{seconds:,.0f} seconds"
