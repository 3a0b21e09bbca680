"""Small shards travel together, because Ray needs about a tenth of a second of a core for each parcel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actors.shard_block import ShardTask

_MOST_BYTES = 8 << 20
"""Stored bytes from which shards travel alone: some seconds of work for a detector."""

_MOST_SHARDS = 32

_EACH_WORKER = 4
"""Parcels for each worker, at least, so that all of them have work until the end."""


def most_in_parcel(shards: int, workers: int) -> int:
    """Return how many shards may be in a parcel, at least 1.

    Args:
        shards: Number of planned shards.
        workers: Number of workers of the stage with the most.
    """
    return max(1, min(_MOST_SHARDS, shards // (_EACH_WORKER * workers)))


def parcels(tasks: Sequence[ShardTask], most: int) -> Iterator[list[ShardTask]]:
    """Yield shards in parcels, in their order.

    Args:
        tasks: The shards.
        most: Maximum number in a parcel.
    """
    parcel: list[ShardTask] = []
    size = 0
    for task in tasks:
        if parcel and (len(parcel) == most or size + task.shard.size_bytes > _MOST_BYTES):
            yield parcel
            parcel, size = [], 0
        parcel.append(task)
        size += task.shard.size_bytes
    if parcel:
        yield parcel
