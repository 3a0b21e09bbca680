"""Read all commit records with one listing and an index, which is a compact copy of the records.

Only the commit records are authoritative. The index is a Parquet file beside them, in the order of the
listing. An entry is used only if its etag is the one in the listing; any other record is read by itself.
Without the index, a plan over 100,000 committed shards takes 100,000 reads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from actors.storage import layout
from actors.storage.commit_record import CommitRecord, parse_record, read_record
from actors.storage.map_ahead import map_ahead
from actors.storage.object_info import ObjectInfo
from actors.storage.object_store import ObjectStore

_READERS = 32
_ROWS = 2048
"""Number of records that are held in memory and written as one row group. A record is about 2 KB."""
_WORTH_WRITING = 64
"""Minimum number of records read by themselves for which it pays to write a new index."""
_WORTH_READING = 1 / 8
"""Share of all records from which reading the whole index is faster than reading each by itself."""

_SCHEMA = pa.schema(
    [("path", pa.string()), ("listed_etag", pa.string()), ("etag", pa.string()), ("record", pa.string())]
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """The copy of a commit record.

    Attributes:
        path: Path of the record.
        listed_etag: Etag of the record in the listing.
        etag: Etag to pass to `ObjectStore.replace`.
        record: The record as JSON.
    """

    path: str
    listed_etag: str
    etag: str
    record: str


def read_records(store: ObjectStore, keep_index: bool = False) -> Iterator[tuple[CommitRecord, str]]:
    """Yield every commit record with its etag, in the order of the listing and with bounded memory.

    Args:
        store: The output.
        keep_index: Whether to write a new index if the old one lacked many records. Only a caller that may
            write to the output sets this.

    Raises:
        OutputError: This version can't read one of the records.
    """
    with _IndexReader(store) as index, _IndexWriter(store) as renewed:

        def load_alone(info: ObjectInfo) -> tuple[_Entry, CommitRecord] | None:
            found = read_record(store, str(layout.shard_id_of(info.path)))
            if found is None:
                return None
            record, etag = found
            return _Entry(info.path, info.etag, etag, record.model_dump_json()), record

        listing = (o for o in store.list(layout.COMMITS) if layout.shard_id_of(o.path) is not None)
        alone = 0
        while pairs := [(info, index.find(info)) for info in islice(listing, _ROWS)]:
            # Only reading profits from threads; handing a copied record to one takes longer than parsing it.
            missing = map_ahead(load_alone, [info for info, entry in pairs if entry is None], _READERS)
            for info, entry in pairs:
                copied = entry and (entry, parse_record(store.full(info.path), entry.record.encode()))
                found = copied or next(missing)
                alone += copied is None
                if found is None:
                    continue
                if keep_index:
                    renewed.add(found[0])
                yield found[1], found[0].etag
        if keep_index and alone >= _WORTH_WRITING:
            renewed.publish()


def list_records(store: ObjectStore) -> Iterator[tuple[str, str]]:
    """Shard and listed etag of every record, in the order of the listing, without reading any."""
    for info in store.list(layout.COMMITS):
        shard_id = layout.shard_id_of(info.path)
        if shard_id is not None:
            yield shard_id, info.etag


def read_some_records(
    store: ObjectStore, shard_ids: Sequence[str], of: int, keep_index: bool = False
) -> Iterator[CommitRecord]:
    """The records of some shards, given and returned in the order of the listing; deleted ones are left out.

    Args:
        store: The output.
        shard_ids: The shards.
        of: Number of all records.
        keep_index: Passed to `read_records` if most records have to be read.

    Raises:
        OutputError: A record is not one that this version can read.
    """
    if len(shard_ids) < _WORTH_READING * of:
        for found in map_ahead(lambda shard_id: read_record(store, shard_id), shard_ids, _READERS):
            if found is not None:
                yield found[0]
        return
    wanted = set(shard_ids)
    yield from (record for record, _ in read_records(store, keep_index) if record.shard_id in wanted)


class _IndexReader:
    """Looks up entries of the index. Lookups must come in the order of the paths."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __enter__(self) -> Self:
        self._file: pq.ParquetFile | None = None
        try:
            self._file = pq.ParquetFile(self._store.open(layout.COMMIT_INDEX))
            if self._file.schema_arrow != _SCHEMA:
                self._file = None
        except (FileNotFoundError, pa.ArrowInvalid):
            self._file = None
        self._entries = self._read()
        self._next = next(self._entries, None)
        return self

    def _read(self) -> Iterator[_Entry]:
        if self._file is not None:
            for batch in self._file.iter_batches(_ROWS):
                yield from (_Entry(**row) for row in batch.to_pylist())

    def find(self, info: ObjectInfo) -> _Entry | None:
        """Return the entry of a listed record, or None if there is none with the same etag."""
        while self._next is not None and self._next.path < info.path:
            self._next = next(self._entries, None)
        entry = self._next
        if entry is None or entry.path != info.path or entry.listed_etag != info.etag:
            return None
        return entry

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close(force=True)


class _IndexWriter:
    """Collects entries in a temporary file, which `publish` uploads as the new index."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="shopframe-index-")
        self._path = Path(self._folder.name, "index.parquet")
        self._writer = pq.ParquetWriter(self._path, _SCHEMA, compression="zstd")
        self._waiting: list[dict[str, str]] = []
        return self

    def add(self, entry: _Entry) -> None:
        """Add the next entry. Entries must come in the order of the paths."""
        self._waiting.append(
            {"path": entry.path, "listed_etag": entry.listed_etag, "etag": entry.etag, "record": entry.record}
        )
        if len(self._waiting) >= _ROWS:
            self._flush()

    def publish(self) -> None:
        """Replace the index by the entries that were added."""
        self._flush()
        self._writer.close()
        self._store.upload(layout.COMMIT_INDEX, self._path)

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._waiting, _SCHEMA))
        self._waiting.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._folder.cleanup()
