"""Read what the committed shards contain about the frames in the ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.attributes import AttributeSchema
from actors.errors import InputError
from actors.records import PERSONS_SCHEMA
from actors.storage.commit_record import CommitRecord
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from actors.storage.tables import annotations_schema

_ANNOTATIONS = "annotations/"
_KEYS = pa.schema([PERSONS_SCHEMA.field(name) for name in ("frame_key", "person_index")])
_PERSONS = pa.schema([PERSONS_SCHEMA.field(name) for name in ("bbox", "score", "kept")])
_NO_KEYS = pa.array([], pa.string())


@dataclass(frozen=True, slots=True)
class Predictions:
    """The n persons of the output in the compared frames, in the order of the shards.

    A frame is identified by its position in the ground truth. Frames that only the output has come after
    those.

    Attributes:
        heights_px: Maps the position of each processed frame to its height.
        failed: Positions of the frames in the ground truth that failed in the output.
        frame_of: int64 [n], position of the person's frame.
        boxes: float64 [n, 4], x1, y1, x2, y2 as shares of the frame.
        scores: float64 [n], score of the detection.
        kept: bool [n], False if the ROI dropped the person.
        answers: Maps an annotator to a table of n rows: status, attributes as string, bool or int16, and
            `confidence_<name>`. All are null if the annotator was not asked.
    """

    heights_px: dict[int, int]
    failed: frozenset[int]
    frame_of: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    kept: NDArray[np.bool_]
    answers: dict[str, pa.Table]


@dataclass(frozen=True, slots=True)
class _ShardPredictions:
    """One shard's rows about the wanted frames. `answers` are aligned with `persons`."""

    shard_id: str
    heights_px: dict[str, int]
    failed: frozenset[str]
    persons: pa.Table
    answers: dict[str, pa.Table]


class _Positions:
    """The wanted frames and their positions. Frames that only the output has are added when they are read."""

    def __init__(self, frames: list[tuple[str | None, str]], complete: bool) -> None:
        self._complete = complete
        self._position = {frame: position for position, frame in enumerate(frames)}
        self._owner: dict[int, str] = {}
        keys: dict[str | None, list[str]] = {}
        for shard_id, frame_key in frames:
            keys.setdefault(shard_id, []).append(frame_key)
        self._keys = {shard_id: pa.array(found, pa.string()) for shard_id, found in keys.items()}

    def wanted(self, shard_id: str) -> pa.Array | None:
        """Return the frame keys to read from a shard, or None for all of them."""
        if self._complete:
            return None
        return self._keys.get(None, self._keys.get(shard_id, _NO_KEYS))

    def of(self, shard_id: str, frame_key: str) -> int:
        """Return the position of a frame of this shard.

        Raises:
            InputError: If the ground truth has no shard ids, and another shard has a frame with the same key.
        """
        frame = (None, frame_key) if (None, frame_key) in self._position else (shard_id, frame_key)
        position = self._position.setdefault(frame, len(self._position))
        owner = self._owner.setdefault(position, shard_id)
        if owner != shard_id:
            raise InputError(
                f"frame {frame_key} is in the shards {owner} and {shard_id}; add a column shard_id to the "
                "ground-truth table"
            )
        return position

    def names(self, shard_id: str, frame_key: str) -> bool:
        """Return whether the ground truth itself names a frame."""
        return (None, frame_key) in self._position or (shard_id, frame_key) in self._position


def read_predictions(
    store: ObjectStore, schema: AttributeSchema, frames: list[tuple[str | None, str]], complete: bool
) -> Predictions:
    """Read the committed rows of some frames, a few shards at a time. Crops are never read.

    Args:
        store: The output.
        schema: The attribute schema.
        frames: (shard_id, frame_key) of the frames in the ground truth. Either all shard ids are None, or
            none of them.
        complete: Whether to read the output's other frames as well.

    Raises:
        InputError: If there are no shard ids, and two shards have a frame with the same key.
    """
    positions = _Positions(frames, complete)
    looked_for = ((record, positions.wanted(record.shard_id)) for record, _ in read_records(store))
    some = ((record, keys) for record, keys in looked_for if keys is None or len(keys))
    shards = list(map_ahead(lambda pair: _read_shard(store, schema, *pair), some))
    failed = [
        positions.of(shard.shard_id, key)
        for shard in shards
        for key in sorted(shard.failed)
        if positions.names(shard.shard_id, key)
    ]
    heights_px = {
        positions.of(shard.shard_id, key): px for shard in shards for key, px in shard.heights_px.items()
    }
    unasked = _answers_schema(schema).empty_table()
    persons = pa.concat_tables([_PERSONS.empty_table(), *(s.persons.select(_PERSONS.names) for s in shards)])
    return Predictions(
        heights_px=heights_px,
        failed=frozenset(failed),
        frame_of=np.array(
            [positions.of(s.shard_id, key) for s in shards for key in s.persons["frame_key"].to_pylist()],
            np.int64,
        ),
        boxes=pc.list_flatten(persons["bbox"]).to_numpy().reshape(-1, 4).astype(np.float64),
        scores=persons["score"].to_numpy().astype(np.float64),
        kept=persons["kept"].to_numpy().astype(np.bool_),
        answers={
            name: pa.concat_tables(
                s.answers.get(name, unasked.take(pa.nulls(len(s.persons), pa.int64()))) for s in shards
            )
            for name in sorted({name for shard in shards for name in shard.answers})
        },
    )


def first_frame(store: ObjectStore) -> tuple[str, str] | None:
    """Return (shard_id, frame_key) of the first committed frame, or None if there is none."""
    for record, _ in read_records(store):
        frames = record.object("frames")
        keys = _read(store, frames.path, ["frame_key"])["frame_key"] if frames else []
        if len(keys):
            return record.shard_id, keys[0].as_py()
    return None


def _read_shard(
    store: ObjectStore, schema: AttributeSchema, record: CommitRecord, wanted: pa.Array | None
) -> _ShardPredictions:
    nobody = pa.schema([*_KEYS, *_PERSONS]).empty_table()
    frames_object, persons_object = record.object("frames"), record.object("persons")
    if frames_object is None:
        return _ShardPredictions(record.shard_id, {}, frozenset(), nobody, {})
    frames = _read(store, frames_object.path, ["frame_key", "status", "height"])
    rows = (frames if wanted is None else _about(frames, wanted)).to_pylist()
    heights = {row["frame_key"]: row["height"] for row in rows if row["status"] == "ok"}
    # A second frame with the same key has its own error row and doesn't make the first one fail.
    failed = frozenset(row["frame_key"] for row in rows) - heights.keys()
    if not heights or persons_object is None:
        return _ShardPredictions(record.shard_id, heights, failed, nobody, {})
    persons = _read(store, persons_object.path, [*_KEYS.names, *_PERSONS.names])
    persons = _about(persons, pa.array(list(heights), pa.string()))
    answers = {
        entry.kind.removeprefix(_ANNOTATIONS): _answers(store, schema, entry.path, persons)
        for entry in record.objects
        if entry.kind.startswith(_ANNOTATIONS)
    }
    return _ShardPredictions(record.shard_id, heights, failed, persons, answers)


def _about(table: pa.Table, frame_keys: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table["frame_key"], frame_keys))


def _read(store: ObjectStore, path: str, columns: list[str]) -> pa.Table:
    with store.open(path) as stream:
        file = pq.ParquetFile(stream)
        return file.read(columns=[name for name in columns if name in file.schema_arrow.names])


def _answers_schema(schema: AttributeSchema) -> pa.Schema:
    """Return the columns of the answers that are compared, with dictionaries as plain strings."""
    names = ["status", *schema.names, *(f"confidence_{name}" for name in schema.names)]
    fields = (annotations_schema(schema).field(name) for name in names)
    return pa.schema(
        [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in fields]
    )


def _answers(store: ObjectStore, schema: AttributeSchema, path: str, persons: pa.Table) -> pa.Table:
    """Return one row of answers per row of `persons`, null if there is no answer.

    Columns of attributes that the shard was annotated without, or with another type, are null.
    """
    columns = _answers_schema(schema)
    table = _read(store, path, [*_KEYS.names, *columns.names])
    row_of = {key: row for row, key in enumerate(_keys(table))}
    aligned = table.take(pa.array([row_of.get(key) for key in _keys(persons)], pa.int64()))
    return pa.table(
        [
            aligned[f.name].cast(f.type) if _has(aligned.schema, f) else pa.nulls(len(aligned), f.type)
            for f in columns
        ],
        schema=columns,
    )


def _has(stored: pa.Schema, field: pa.Field) -> bool:
    """Return whether a table has a column that can be compared, which is a dictionary instead of a string."""
    position = stored.get_field_index(field.name)
    if position < 0:
        return False
    found = stored.field(position).type
    return bool((found.value_type if pa.types.is_dictionary(found) else found) == field.type)


def _keys(table: pa.Table) -> Iterator[tuple[str, int]]:
    return zip(*(table[name].to_pylist() for name in _KEYS.names), strict=True)
