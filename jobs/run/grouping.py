"""Divide things into groups of limited number and size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def grouped(
    things: Iterable[T], most: int, most_bytes: int, size_of: Callable[[T], int]
) -> Iterator[list[T]]:
    """Yield things in groups, in their order.

    Args:
        things: The things.
        most: Maximum number in a group.
        most_bytes: Maximum sum of sizes in a group. A larger thing has a group of its own.
        size_of: Returns the size of one, in bytes.
    """
    group: list[T] = []
    size = 0
    for thing in things:
        is_full = len(group) == most or size + size_of(thing) > most_bytes
        if group and is_full:
            yield group
            group, size = [], 0
        group.append(thing)
        size += size_of(thing)
    if group:
        yield group
