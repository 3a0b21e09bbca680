"""The dropped persons of one frame, which the consolidated tables don't have."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore

_COLUMNS = ["frame_key", "bbox", "kept", "drop_reason"]


def dropped_in_frame(store: ObjectStore, shard_id: str, frame_key: str) -> list[dict[str, Any]]:
    """Return the boxes of a frame that the region of interest has dropped, with the reasons."""
    found = read_record(store, shard_id)
    persons = None if found is None else found[0].object("persons")
    if persons is None:
        return []
    try:
        with store.open(persons.path) as stream:
            table = pq.read_table(stream, columns=_COLUMNS)
    except FileNotFoundError:
        # Another run has committed the shard again meanwhile.
        return []
    dropped = table.filter(pc.and_(pc.equal(table["frame_key"], frame_key), pc.invert(table["kept"])))
    return [{"bbox": row["bbox"], "reason": row["drop_reason"]} for row in dropped.to_pylist()]
