"""How many shards of the backlog are in progress: as many as keep enough persons waiting for requests."""

from __future__ import annotations

from collections.abc import Collection

from actors.gemini.protocol import DrainTask

_FEW_SHARDS = 8
"""So many shards are always in progress, since a large one may wait for its last answers or its commit."""

MOST_SHARDS = 500
"""More shards are never in progress, however few persons each has left."""


def admits_another(running: Collection[DrainTask], persons: int) -> bool:
    """Return whether another shard should start.

    Args:
        running: Shards in progress.
        persons: Number of persons that should be in progress, whose crops fit into memory.
    """
    if len(running) < _FEW_SHARDS:
        return True
    return len(running) < MOST_SHARDS and sum(task.persons for task in running) < persons
