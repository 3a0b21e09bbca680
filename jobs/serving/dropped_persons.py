"""The persons that the region of interest has dropped, from the tables of all shards."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.storage.commit_record import CommitRecord
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records

_PERSON_COLUMNS = ["shard_id", "frame_key", "person_index", "bbox", "score", "kept", "drop_reason"]


def dropped_persons(store: ObjectStore) -> Iterator[pa.Table]:
    """Yield a table for each shard that has dropped persons.

    Its columns are `shard_id`, `frame_key`, `person_index`, `bbox`, `score`, `camera`, `captured_at` (UTC,
    without zone), and `verdict`, the reason.

    Raises:
        OSError: The output can't be read.
    """
    with_dropped = (record for record, _ in read_records(store) if record.counts.dropped)
    for table in map_ahead(lambda record: _of_shard(store, record), with_dropped):
        if table is not None:
            yield table


def _of_shard(store: ObjectStore, record: CommitRecord) -> pa.Table | None:
    frames, persons = record.object("frames"), record.object("persons")
    if frames is None or persons is None:
        return None
    try:
        with store.open(persons.path) as stream:
            found = pq.read_table(stream, columns=_PERSON_COLUMNS)
        with store.open(frames.path) as stream:
            of_frames = pq.read_table(stream, columns=["frame_key", "camera", "captured_at"])
    except FileNotFoundError:
        # Another run has committed the shard again meanwhile.
        return None
    dropped = found.filter(pc.invert(found["kept"]))
    at = pc.index_in(dropped["frame_key"], value_set=of_frames["frame_key"].combine_chunks())
    captured = of_frames["captured_at"].take(at)
    return pa.table(
        {
            **{name: dropped[name] for name in ("shard_id", "frame_key", "person_index", "score")},
            "bbox": dropped["bbox"].cast(pa.list_(pa.float32())),
            "camera": of_frames["camera"].take(at),
            "captured_at": captured.cast(pa.timestamp("us")),
            "verdict": dropped["drop_reason"].cast(pa.string()),
        }
    )
