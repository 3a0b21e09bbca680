"""Search an output for what shows or names a person, in every file and in everything that files contain."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.storage.object_store import ObjectStore


@dataclass(frozen=True)
class Person:
    """What may be left of a person: the row, the crop, and digests of both."""

    shard_id: str
    frame_key: str
    index: int
    crop: bytes

    @property
    def person_id(self) -> str:
        return f"{self.shard_id}/{self.frame_key}/{self.index}"

    @property
    def needles(self) -> dict[str, bytes]:
        return {
            "crop": self.crop,
            "crop_sha256": hashlib.sha256(self.crop).hexdigest().encode(),
            "person_id": self.person_id.encode(),
            "person_sha256": hashlib.sha256(self.person_id.encode()).hexdigest().encode(),
        }


def traces(store: ObjectStore, person: Person) -> set[tuple[str, str]]:
    """Return the paths of the objects that have something of a person, each with what it has."""
    found = set()
    needles = {what: re.compile(re.escape(needle) + rb"(?![0-9])") for what, needle in person.needles.items()}
    for info in store.list():
        for content in _contents(info.path, store.read(info.path)):
            found |= {(info.path, what) for what, needle in needles.items() if needle.search(content)}
    return found


def _contents(path: str, content: bytes) -> Iterator[bytes]:
    yield path.encode()
    yield content
    if path.endswith(".parquet"):
        table = pq.read_table(pa.BufferReader(content))
        for row in table.to_pylist():
            yield from _values(row)
            if {"shard_id", "frame_key", "person_index"} <= row.keys():
                yield f"{row['shard_id']}/{row['frame_key']}/{row['person_index']}".encode()
        for column in table.columns:
            for chunk in column.chunks:
                if pa.types.is_dictionary(chunk.type):
                    yield from _values(chunk.dictionary.to_pylist())
        yield from (value for pair in (table.schema.metadata or {}).items() for value in pair)
    if path.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                yield f"{path.removeprefix('json/').removesuffix('.tar')}/{member.name}".encode()
                stream = tar.extractfile(member)
                assert stream is not None
                yield stream.read()


def _values(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _values(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _values(one)
    elif value is not None:
        yield str(value).encode()
