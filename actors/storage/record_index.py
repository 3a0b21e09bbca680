"""Read all commit records with one listing and an index, which is a compact copy of the records.

Only the commit records are authoritative. The index is a Parquet file beside them, in the order of the
listing. An entry is used only if its etag is the one in the listing; any other record is read by itself.
Without the index, a plan over 100,000 committed shards takes 100,000 reads.
"""

from __future__ import annotations

import hashlib
import heapq
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, islice
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


class ListingDigest:
    """A digest of a listing of the commit records. If two are equal, no record was written in between."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @classmethod
    def now(cls, store: ObjectStore) -> Self:
        """List the records, and return the digest."""
        made = cls()
        for shard_id, etag in list_records(store):
            made.add(layout.commit_path(shard_id), etag)
        return made

    def add(self, path: str, etag: str) -> None:
        """Add the next record of the listing."""
        self._hash.update(f"{path} {etag}\n".encode())

    @property
    def value(self) -> str:
        """The digest of the records that were added, hexadecimal."""
        return self._hash.hexdigest()


def read_records(
    store: ObjectStore, keep_index: bool = False, digest: ListingDigest | None = None
) -> Iterator[tuple[CommitRecord, str]]:
    """Yield every commit record with its etag, in the order of the listing and with bounded memory.

    Args:
        store: The output.
        keep_index: Whether to write a new index if the old one lacked many records. Only a caller that may
            write to the output sets this.
        digest: Is given every record that was listed.

    Raises:
        OutputError: This version can't read one of the records.
    """
    with _IndexReader(store) as index, _NewEntries() as new:

        def load_alone(info: ObjectInfo) -> tuple[_Entry, CommitRecord] | None:
            found = read_record(store, str(layout.shard_id_of(info.path)))
            if found is None:
                return None
            record, etag = found
            return _Entry(info.path, info.etag, etag, record.model_dump_json()), record

        listing = (o for o in store.list(layout.COMMITS) if layout.shard_id_of(o.path) is not None)
        while pairs := [(info, index.find(info)) for info in islice(listing, _ROWS)]:
            # Only reading profits from threads; handing a copied record to one takes longer than parsing it.
            missing = map_ahead(load_alone, [info for info, entry in pairs if entry is None], _READERS)
            for info, entry in pairs:
                if digest is not None:
                    digest.add(info.path, info.etag)
                if entry is not None:
                    yield parse_record(store.full(info.path), entry.record.encode()), entry.etag
                elif (found := next(missing)) is not None:
                    if keep_index:
                        new.add(found[0])
                    yield found[1], found[0].etag
        if new.count >= _WORTH_WRITING:
            _write_index(store, heapq.merge(index.used(), new.entries(), key=lambda entry: entry.path))


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
        # One byte per entry that was passed: whether it was found.
        self._found = bytearray()
        return self

    def _read(self) -> Iterator[_Entry]:
        if self._file is not None:
            yield from _entries_of(self._file)

    def find(self, info: ObjectInfo) -> _Entry | None:
        """Return the entry of a listed record, or None if there is none with the same etag."""
        while self._next is not None and self._next.path < info.path:
            self._pass(was_found=False)
        entry = self._next
        if entry is None or entry.path != info.path or entry.listed_etag != info.etag:
            return None
        self._pass(was_found=True)
        return entry

    def _pass(self, *, was_found: bool) -> None:
        self._found.append(was_found)
        self._next = next(self._entries, None)

    def used(self) -> Iterator[_Entry]:
        """Yield the entries that were found once more."""
        yield from compress(self._read(), self._found)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close(force=True)


class _NewEntries:
    """Collects the entries that the index lacks, in a temporary file."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[_Entry] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="shopframe-index-")
        self._path = Path(self._folder.name, "new.parquet")
        return self

    def add(self, entry: _Entry) -> None:
        """Add the next entry. Entries must come in the order of the paths."""
        self._waiting.append(entry)
        self.count += 1
        if len(self._waiting) >= _ROWS:
            self._writer = self._writer or pq.ParquetWriter(self._path, _SCHEMA, compression="zstd")
            self._writer.write_table(_table_of(self._waiting))
            self._waiting.clear()

    def entries(self) -> Iterator[_Entry]:
        """Yield the entries that were added. None can be added after that."""
        if self._writer is not None:
            self._writer.close()
            with pq.ParquetFile(self._path) as file:
                yield from _entries_of(file)
        yield from self._waiting

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        self._folder.cleanup()


def _write_index(store: ObjectStore, entries: Iterator[_Entry]) -> None:
    """Replace the index."""
    with tempfile.TemporaryDirectory(prefix="shopframe-index-") as folder:
        path = Path(folder, "index.parquet")
        with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
            while some := list(islice(entries, _ROWS)):
                writer.write_table(_table_of(some))
        store.upload(layout.COMMIT_INDEX, path)


def _table_of(entries: Sequence[_Entry]) -> pa.Table:
    columns = [[getattr(entry, name) for entry in entries] for name in _SCHEMA.names]
    return pa.table(columns, schema=_SCHEMA)


def _entries_of(file: pq.ParquetFile) -> Iterator[_Entry]:
    for batch in file.iter_batches(_ROWS):
        yield from map(_Entry, *(column.to_pylist() for column in batch.columns))
