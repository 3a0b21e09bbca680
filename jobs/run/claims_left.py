"""Find the claims that dead runs left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator

from actors.storage import layout
from actors.storage.flat_listing import list_flat
from actors.storage.object_info import ObjectInfo
from actors.storage.object_store import ObjectStore


def dead_claims(store: ObjectStore, before_s: float) -> Iterator[ObjectInfo]:
    """Yield the heartbeats that have stopped, and the claims of runs that don't beat.

    A run that works on Gemini's backlog writes its heartbeat every few seconds, and may hold a claim for days
    while it waits for the quota. A claim therefore counts as dead only if its run's heartbeat does.

    Args:
        store: The output.
        before_s: A heartbeat or claim that was last written before this time, in seconds since the epoch, is
            not of a living run.
    """
    living = set()
    for info in list_flat(store, layout.HOLDERS):
        if _written_before(info, before_s):
            yield info
        else:
            living.add(info.path)
    for info in list_flat(store, layout.CLAIMS):
        if _written_before(info, before_s) and _holder(store, info.path) not in living:
            yield info


def _written_before(info: ObjectInfo, before_s: float) -> bool:
    return info.modified_s is not None and info.modified_s <= before_s


def _holder(store: ObjectStore, path: str) -> str | None:
    """Return the path of the heartbeat of a claim's run, or None if the claim can't be read."""
    try:
        return layout.holder_path(str(json.loads(store.read(path))["holder"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
