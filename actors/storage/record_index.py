"""All commit records by one listing: a compact copy of them, good as far as the listing's etags agree.

The records stay the only truth. The index is a Parquet file beside them, in the order of the listing,
and an entry counts only while the listing shows the object that it was copied from; any other record
is read by itself. Without it a plan over 100,000 committed shards takes 100,000 reads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from actors.storage import layout
from actors.storage.commit_record import CommitRecord, parse_record, read_record
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectInfo, ObjectStore

_READERS = 32
_ROWS = 2048
"""Records of one row group, about 2 KB each: what is held in memory at a time."""
_WORTH_WRITING = 64
"""Records read by themselves from which a new index pays for its own writing."""

_SCHEMA = pa.schema(
    [("path", pa.string()), ("listed_etag", pa.string()), ("etag", pa.string()), ("record", pa.string())]
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record as it was: `listed_etag` is the listing's identity of it, `etag` that for `replace`."""

    path: str
    listed_etag: str
    etag: str
    record: str


def read_records(store: ObjectStore, keep_index: bool = False) -> Iterator[tuple[CommitRecord, str]]:
    """Every record with its etag, in the order of the listing, a bounded number in memory.

    Args:
        store: The output.
        keep_index: Write a new index when the old one lacked many records; for those who may write.

    Raises:
        OutputError: A record is not one that this version can read.
    """
    with _IndexReader(store) as index, _IndexWriter(store) as renewed:

        def load(pair: tuple[ObjectInfo, _Entry | None]) -> tuple[ObjectInfo, CommitRecord, str, bool] | None:
            info, entry = pair
            if entry is not None:
                return info, parse_record(store.full(info.path), entry.record.encode()), entry.etag, False
            found = read_record(store, str(layout.shard_id_of(info.path)))
            return None if found is None else (info, *found, True)

        listing = (o for o in store.list(layout.COMMITS) if layout.shard_id_of(o.path) is not None)
        alone = 0
        for found in map_ahead(load, ((info, index.find(info)) for info in listing), _READERS):
            if found is None:
                continue
            info, record, etag, was_alone = found
            alone += was_alone
            if keep_index:
                renewed.add(_Entry(info.path, info.etag, etag, record.model_dump_json()))
            yield record, etag
        if keep_index and alone >= _WORTH_WRITING:
            renewed.publish()


class _IndexReader:
    """Entries in the order of their paths, looked up in that order."""

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
        """The entry of a listed record, if it is still of that version."""
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
    """Collects entries in a temporary file, which becomes the index when it is published."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="shopframe-index-")
        self._path = Path(self._folder.name, "index.parquet")
        self._writer = pq.ParquetWriter(self._path, _SCHEMA, compression="zstd")
        self._waiting: list[dict[str, str]] = []
        return self

    def add(self, entry: _Entry) -> None:
        """Take the next entry, in the order of paths."""
        self._waiting.append(
            {"path": entry.path, "listed_etag": entry.listed_etag, "etag": entry.etag, "record": entry.record}
        )
        if len(self._waiting) >= _ROWS:
            self._flush()

    def publish(self) -> None:
        """Make what was added the index."""
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
