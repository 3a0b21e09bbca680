"""Leave out decisions about persons that were erased while somebody still saw them."""

from __future__ import annotations

from collections.abc import Iterable

from actors.commit.committed_shard import shard_from_record
from actors.corrections.decision import Decision
from actors.erasure.left_out import LeftOut, read_left_out
from actors.storage import layout
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore


def without_erased(store: ObjectStore, decisions: Iterable[Decision]) -> list[Decision]:
    """Return the decisions that are not about erased persons.

    Raises:
        OutputError: What was erased, or a commit record, can't be read by this version.
        OSError: The store can't be read.
    """
    # This is one small request, and most outputs have no erasures.
    if not store.exists(layout.ERASURE_SALT):
        return list(decisions)
    found: dict[str, LeftOut | None] = {}
    left = []
    for decision in decisions:
        shard_id = decision.shard_id
        if shard_id not in found:
            record = read_record(store, shard_id)
            found[shard_id] = None if record is None else read_left_out(store, shard_from_record(record[0]))
        erased = found[shard_id]
        if erased is None or not erased.erased(decision.frame_key, None, [decision.bbox])[0]:
            left.append(decision)
    return left
