"""The files of the consolidated tables: their rows, and what their metadata says about each shard."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from actors.records import SCHEMA_VERSION
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from jobs.run.consolidated_rows import AnswerColumns, ShardRows

_ROW_GROUP_ROWS = 20_000
"""Rows from which a row group is written. It holds whole shards, and small shards share one."""
UNREADABLE = (OSError, pa.ArrowInvalid)
"""What reading a file of the tables raises if it is gone or damaged; pyarrow has both for damage."""
_COLUMNS_KEY = b"shopframe.answer_columns"
_SHARDS_KEY = b"shopframe.shards"


@dataclass(frozen=True, slots=True)
class ReadShard:
    """One shard of a file. `found` is None if its record was deleted meanwhile, or if there is damage."""

    shard_id: str
    attempt_id: str = ""
    found: ShardRows | None = None
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What a file says about one of its shards.

    Attributes:
        shard_id: The shard.
        attempt_id: The attempt that its rows come from.
        made_of: What the rows follow from: the etag of the record, and whatever else is about this shard.
        rows: Number of its rows.
        columns: The columns of its annotations tables, as JSON of `AnswerColumns`.
        schema: The columns of the file.
    """

    shard_id: str
    attempt_id: str
    made_of: str
    rows: int
    columns: str
    schema: pa.Schema

    def answers(self) -> AnswerColumns:
        """Return the columns of the shard's annotations tables."""
        return AnswerColumns.from_json(json.loads(self.columns))


@dataclass(slots=True)
class _Waiting:
    """Rows that are not written yet."""

    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0


class FileWriter:
    """Writes one file, shard by shard, in the order of the listing of the records.

    Args:
        path: The file, on a local disk.
        schema: Its columns.
        made_with: What all its rows follow from, beside what their own shard has.
    """

    def __init__(self, path: Path, schema: pa.Schema, made_with: str) -> None:
        self._schema = schema
        self._file = pq.ParquetWriter(path, schema, compression="zstd")
        self._made_with = made_with
        self._waiting = _Waiting()
        self._entries: list[ShardEntry] = []
        self.columns = AnswerColumns()

    @property
    def rows(self) -> int:
        """Number of the rows that were added."""
        return sum(entry.rows for entry in self._entries)

    @property
    def shard_ids(self) -> tuple[str, str] | None:
        """The smallest and the largest shard id of the rows, or None if there are no rows."""
        having = [entry.shard_id for entry in self._entries if entry.rows]
        return (min(having), max(having)) if having else None

    def add(self, shard_id: str, attempt_id: str, made_of: str, found: ShardRows) -> None:
        """Add the rows of the next shard."""
        rows, columns = found.rows.num_rows, json.dumps(found.answers.as_json())
        self._entries.append(ShardEntry(shard_id, attempt_id, made_of, rows, columns, self._schema))
        self.columns.update(found.answers)
        if rows:
            self._waiting.tables.append(found.rows)
            self._waiting.rows += rows
        if self._waiting.rows >= _ROW_GROUP_ROWS:
            self._write_row_group()

    def _write_row_group(self) -> None:
        if self._waiting.rows:
            table = pa.concat_tables(self._waiting.tables)
            self._file.write_table(table, row_group_size=table.num_rows)
            self._waiting = _Waiting()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write_row_group()
            self._file.add_key_value_metadata(
                {
                    b"schema_version": SCHEMA_VERSION.encode(),
                    _COLUMNS_KEY: json.dumps(self.columns.as_json()).encode(),
                    _SHARDS_KEY: _to_json(self._made_with, self._entries),
                }
            )
        self._file.close()


def _to_json(made_with: str, entries: Iterable[ShardEntry]) -> bytes:
    # Nearly all shards of a file have the same columns, so an entry has their place in a list.
    places: dict[str, int] = {}
    rows = [
        [it.shard_id, it.attempt_id, it.made_of, it.rows, places.setdefault(it.columns, len(places))]
        for it in entries
    ]
    return json.dumps({"made_with": made_with, "columns": list(places), "shards": rows}).encode()


def columns_of_file(store: ObjectStore, path: str) -> AnswerColumns:
    """Return the columns of the annotations tables that a file's rows come from."""
    with store.open(path) as stream:
        return AnswerColumns.from_json(json.loads(pq.read_metadata(stream).metadata[_COLUMNS_KEY]))


class _OfShard(Protocol):
    @property
    def shard_id(self) -> str: ...


_Item = TypeVar("_Item", bound=_OfShard)


class InOrder(Generic[_Item]):
    """Finds what is known of shards in a stream of it, in the order of the stream."""

    def __init__(self, shards: Iterator[_Item]) -> None:
        self._shards = shards
        self._next = next(shards, None)

    def find(self, shard_id: str) -> _Item | None:
        """Return a shard, or None if the stream doesn't have it. It must be asked for every shard it has."""
        found = self._next
        if found is None or found.shard_id != shard_id:
            return None
        self._next = next(self._shards, None)
        return found


class UnchangedRows:
    """The rows of shards that haven't changed, from files that a new version replaces.

    Reading them takes a request or two per file, while reading the tables of each shard takes four per shard.

    Args:
        store: The output.
        paths: The files. One that can't be read, or was written by a version of Shopframe that didn't note
            its shards, is left out.
        made_with: As in `FileWriter`. Files that were made with anything else are left out.
    """

    def __init__(self, store: ObjectStore, paths: Iterable[str], made_with: str) -> None:
        self._store = store
        self._at: dict[str, tuple[_OldFile, int]] = {}
        for old in map_ahead(lambda path: _open_old(store, path, made_with), paths):
            if old is not None:
                self._at |= {entry.shard_id: (old, number) for number, entry in enumerate(old.entries)}

    def entry(self, shard_id: str, made_of: str) -> ShardEntry | None:
        """Return what the files say about a shard, or None if they don't have its current rows."""
        old, number = self._at.get(shard_id, (None, 0))
        if old is None or old.entries[number].made_of != made_of:
            return None
        return old.entries[number]

    def read(self, entry: ShardEntry) -> ShardRows:
        """Return the rows of a shard, without the decisions that find nobody.

        Raises:
            OSError: The file is gone or damaged; so with `pyarrow.ArrowInvalid`.
        """
        old, number = self._at[entry.shard_id]
        return ShardRows(old.rows_of(self._store, number), AnswerColumns.from_json(json.loads(entry.columns)))


class _OldFile:
    """A file of the version that is replaced. One of its row groups is held in memory."""

    def __init__(self, path: str, metadata: pq.FileMetaData, entries: list[ShardEntry]) -> None:
        self.entries = entries
        self._path = path
        self._starts = list(accumulate((entry.rows for entry in entries), initial=0))
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._group_starts = list(accumulate(sizes, initial=0))
        self._group: tuple[int, pa.Table] | None = None

    def rows_of(self, store: ObjectStore, number: int) -> pa.Table:
        """Return the rows of one entry."""
        start, rows = self._starts[number], self.entries[number].rows
        if not rows:
            return self.entries[number].schema.empty_table()
        group = bisect_right(self._group_starts, start) - 1
        if self._group is None or self._group[0] != group:
            with store.open(self._path) as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
                self._group = group, file.read_row_group(group, use_threads=False)
        return self._group[1].slice(start - self._group_starts[group], rows)


def _open_old(store: ObjectStore, path: str, made_with: str) -> _OldFile | None:
    try:
        with store.open(path) as stream:
            metadata = pq.read_metadata(stream)
    except UNREADABLE:
        return None
    noted: Mapping[bytes, bytes] = metadata.metadata or {}
    content: dict[str, Any] = json.loads(noted.get(_SHARDS_KEY, b"{}"))
    if content.get("made_with") != made_with:
        return None
    schema, columns = metadata.schema.to_arrow_schema(), content["columns"]
    entries = [
        ShardEntry(shard_id, attempt_id, made_of, rows, columns[at], schema)
        for shard_id, attempt_id, made_of, rows, at in content["shards"]
    ]
    if sum(entry.rows for entry in entries) != metadata.num_rows:
        return None
    return _OldFile(path, metadata, entries)
