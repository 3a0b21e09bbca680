"""Persons that were not sent to Gemini because of their camera, and may be sent once it is permitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow.parquet as pq

from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.settings import ANNOTATOR
from actors.records import is_denied
from actors.storage.commit_record import CommitRecord
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class Denied:
    """Number of a shard's persons that were not sent because of their camera, and of those now permitted."""

    persons: int = 0
    permitted: int = 0


NOBODY = Denied()

_RECORDS_AT_ONCE = 500


def with_denied(
    store: ObjectStore, records: Iterable[CommitRecord], cameras: GeminiCameras
) -> Iterator[tuple[CommitRecord, Denied]]:
    """Yield each record with the persons that were not sent because of their camera.

    The tables of a shard are read only if an earlier version wrote its record, and it has `blocked` persons:
    those versions gave this outcome to persons that were not sent, too.

    Args:
        store: The output.
        records: Commit records.
        cameras: Cameras whose crops may be sent now.

    Raises:
        OSError: The store can't be read.
    """
    remaining = iter(records)
    while some := list(islice(remaining, _RECORDS_AT_ONCE)):
        unknown = [record for record in some if _is_unknown(record)]
        counted = map_ahead(lambda record: (record.shard_id, _count(store, record)), unknown)
        looked_up = dict(counted)
        for record in some:
            known = {} if record.denied is None else record.denied.get(ANNOTATOR, {})
            by_camera = looked_up.get(record.shard_id, known)
            permitted = sum(n for camera, n in by_camera.items() if cameras.permits(camera or None))
            yield record, Denied(sum(by_camera.values()), permitted)


def _is_unknown(record: CommitRecord) -> bool:
    outcomes = record.annotators.get(ANNOTATOR, {})
    return record.denied is None and bool(outcomes.get("blocked") or outcomes.get("denied"))


def _count(store: ObjectStore, record: CommitRecord) -> Mapping[str, int]:
    """Return the number of persons that were not sent by camera, "" for frames that name none."""
    answers, frames = record.object(f"annotations/{ANNOTATOR}"), record.object("frames")
    if answers is None or frames is None:
        return {}
    try:
        rows = _read(store, answers.path, ["frame_key", "status", "reason"])
        cameras = {
            row["frame_key"]: row["camera"] for row in _read(store, frames.path, ["frame_key", "camera"])
        }
    except FileNotFoundError:  # Another run has replaced the record.
        return {}
    denied = (row["frame_key"] for row in rows if is_denied(row["status"], row["reason"]))
    return Counter(cameras.get(frame_key) or "" for frame_key in denied)


def _read(store: ObjectStore, path: str, columns: list[str]) -> list[dict[str, Any]]:
    with store.open(path) as stream:
        rows: list[dict[str, Any]] = pq.read_table(stream, columns=columns).to_pylist()
    return rows
