"""Small shards travel together, because Ray needs about a tenth of a second of a core for each parcel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actors.shard_block import ShardTask
from jobs.run.grouping import grouped

_MOST_SHARDS = 32
_MOST_TO_ANNOTATE = 8
"""Fewer where a local model is asked about each person, which takes seconds on a CPU: a worker that dies
loses the answers about all shards of its parcel."""

_A_MOST_BYTES = 32
"""Part of the largest block of a shard that the stored bytes of a parcel may have. Its decoded crops are some
times as large, and must fit where a shard does."""

_EACH_WORKER = 4
"""Parcels for each worker, at least, so that all of them have work until the end."""


@dataclass(frozen=True, slots=True)
class ParcelLimits:
    """How much may travel together.

    Attributes:
        shards: Maximum number of shards, at least 1.
        stored_bytes: Maximum sum of their stored sizes. A larger shard travels alone.
    """

    shards: int
    stored_bytes: int


ALONE = ParcelLimits(1, 0)


def limits_of(shards: int, workers: int, annotates: bool, max_block_bytes: int) -> ParcelLimits:
    """Return how many shards may travel together.

    Args:
        shards: Number of shards that Ray knows of at once.
        workers: Number of workers of the stage with the most.
        annotates: Whether a local model is asked about persons.
        max_block_bytes: Maximum size of a shard's block.
    """
    most = _MOST_TO_ANNOTATE if annotates else _MOST_SHARDS
    each = shards // (_EACH_WORKER * workers)
    stored = max_block_bytes // _A_MOST_BYTES * most // _MOST_SHARDS
    return ParcelLimits(max(1, min(most, each)), stored)


def parcels(tasks: Sequence[ShardTask], limits: ParcelLimits) -> Iterator[list[ShardTask]]:
    """Return shards in parcels, in their order.

    Args:
        tasks: The shards.
        limits: How much may travel together.
    """
    return grouped(tasks, limits.shards, limits.stored_bytes, lambda task: task.shard.size_bytes)
