"""Find the frames and persons that an erasure is about, in the tables that the commit records name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from actors.commit.preview_frames import previews_of
from actors.corrections.decision import Box
from actors.corrections.matching import as_box
from actors.errors import ConfigError, StoreError
from actors.storage import layout
from actors.storage.commit_record import CommitRecord
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from jobs.run.consolidated_rows import read_current
from jobs.run.words import first_of

SelectionKind = Literal["person", "frame", "camera", "before", "retention"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Who is erased.

    Attributes:
        kind: How they are named.
        name: The id of the person, the key of the frame (or shard/key), or the camera.
        before: Persons of frames before this time, for the kinds before and retention.
    """

    kind: SelectionKind
    name: str = ""
    before: datetime | None = None

    @property
    def frames_whole(self) -> bool:
        """Whether all persons of the frames are erased."""
        return self.kind != "person"


@dataclass(frozen=True, slots=True)
class ChosenPerson:
    """A detected person that is erased."""

    frame_key: str
    person_index: int
    bbox: Box
    crop_sha256: str | None


@dataclass(frozen=True, slots=True)
class ChosenShard:
    """What is erased from one shard.

    Attributes:
        record: Its commit record, whose objects were read.
        frames: Keys of the frames from which persons are erased, whether persons were detected there or not.
        persons: The persons.
        boxes: The boxes of all persons of these frames, by frame key.
        without_time: Number of frames that have no time, where frames are chosen by it.
    """

    record: CommitRecord
    frames: frozenset[str] = frozenset()
    persons: tuple[ChosenPerson, ...] = ()
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    without_time: int = 0

    @property
    def keys(self) -> set[tuple[str, int]]:
        """Frame key and index of each person."""
        return {(person.frame_key, person.person_index) for person in self.persons}

    def person_keys(self) -> set[str]:
        """Return the names of the persons, as "shard/frame/index"."""
        return {f"{self.record.shard_id}/{key}/{index}" for key, index in self.keys}

    def person_ids(self) -> set[str]:
        """Return the ids of the persons, as in the paths of their documents."""
        return {f"{self.record.shard_id}/{layout.object_name(key)}/{index}" for key, index in self.keys}


def choose(store: ObjectStore, selection: Selection) -> Iterator[ChosenShard]:
    """Yield the shards that an erasure by camera or time is about, and those with frames without a time.

    Raises:
        OutputError: A commit record can't be read by this version.
        StoreError: An object that a record names is missing or damaged.
        OSError: The store can't be read.
    """
    # A reviewer may have drawn a person in a frame without detections.
    has_corrections = any(True for _ in store.list(layout.CORRECTIONS))
    records = (record for record, _ in read_records(store) if _may_have(record, selection))
    for found in map_ahead(lambda record: _chosen(store, record, selection, has_corrections), records):
        if found is not None and (found.frames or found.without_time):
            yield found


def choose_named(store: ObjectStore, selection: Selection) -> list[ChosenShard]:
    """Return the shard of a person or frame, or nothing if there is none.

    Raises:
        ConfigError: Several shards have a frame of this key.
        OutputError, StoreError, OSError: As for `choose`.
    """
    found = list(choose(store, selection))
    if len(found) > 1:
        names = [f"{one.record.shard_id}/{selection.name}" for one in found]
        raise ConfigError(
            f"--{selection.kind} {selection.name}: several shards have it; pass one of {first_of(names)}"
        )
    return found


def _may_have(record: CommitRecord, selection: Selection) -> bool:
    if record.object("frames") is None:
        return False
    if selection.kind == "camera":
        return record.counts.cameras is None or selection.name in record.counts.cameras
    if selection.kind == "person":
        return selection.name.startswith(f"{record.shard_id}/")
    return True


def _chosen(
    store: ObjectStore, record: CommitRecord, selection: Selection, with_empty_frames: bool
) -> ChosenShard | None:
    try:
        found = read_current(store, record, lambda newest: _read(store, newest, selection, with_empty_frames))
    except (FileNotFoundError, pa.ArrowException) as error:
        raise StoreError(
            f"{record.shard_id}: its tables can't be read, so nothing was erased from it ({error}); see "
            "shopframe verify"
        ) from error
    return None if found is None else found[1]


def _read(
    store: ObjectStore, record: CommitRecord, selection: Selection, with_empty_frames: bool
) -> ChosenShard:
    frames = record.object("frames")
    if frames is None:
        return ChosenShard(record)
    rows = _rows(store, frames.path, ["frame_key", "camera", "captured_at"])
    keys = frozenset(row["frame_key"] for row in rows if _is_chosen(row, record.shard_id, selection))
    by_time = selection.before is not None
    without_time = sum(row["captured_at"] is None for row in rows) if by_time else 0
    persons = record.object("persons")
    if not keys or persons is None:
        return ChosenShard(record, keys, without_time=without_time)
    chosen: list[ChosenPerson] = []
    boxes: dict[str, list[Box]] = {}
    for row in _rows(store, persons.path, ["frame_key", "person_index", "bbox", "crop_sha256"]):
        key, index, box = row["frame_key"], row["person_index"], as_box(row["bbox"])
        if key not in keys:
            continue
        boxes.setdefault(key, []).append(box)
        if selection.frames_whole or selection.name in _names(record.shard_id, key, index):
            chosen.append(ChosenPerson(key, index, box, row.get("crop_sha256")))
    if by_time and not with_empty_frames:
        # Frames that earlier erasures have emptied are most of those before a time.
        drawn = {entry.path for entry in previews_of(record, keys)}
        keys = frozenset(key for key in keys if key in boxes or (drawn and previews_of(record, [key])))
    if not selection.frames_whole:
        keys = frozenset(person.frame_key for person in chosen)
        boxes = {key: boxes[key] for key in keys}
    return ChosenShard(record, keys, tuple(chosen), boxes, without_time)


def _is_chosen(row: dict[str, Any], shard_id: str, selection: Selection) -> bool:
    key = row["frame_key"]
    if selection.kind == "camera":
        return bool(row["camera"] == selection.name)
    if selection.kind == "frame":
        return selection.name in (key, f"{shard_id}/{key}", f"{shard_id}/{layout.object_name(key)}")
    if selection.kind == "person":
        frame = selection.name.rpartition("/")[0]
        return frame in (f"{shard_id}/{key}", f"{shard_id}/{layout.object_name(key)}")
    time = row["captured_at"]
    return selection.before is not None and time is not None and time < selection.before


def _names(shard_id: str, frame_key: str, index: int) -> tuple[str, str]:
    return f"{shard_id}/{frame_key}/{index}", f"{shard_id}/{layout.object_name(frame_key)}/{index}"


def _rows(store: ObjectStore, path: str, columns: list[str]) -> list[dict[str, Any]]:
    with store.open(path) as stream, pq.ParquetFile(stream) as file:
        present = [name for name in columns if name in file.schema_arrow.names]
        rows: list[dict[str, Any]] = file.read(present, use_threads=False).to_pylist()
    return rows
