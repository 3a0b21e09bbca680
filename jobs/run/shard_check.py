"""Check one shard: its commit record, the objects that the record names, its tables and documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from actors.errors import OutputError
from actors.storage import layout
from actors.storage.commit_record import CommitRecord, CommittedObject, read_record
from actors.storage.object_store import ObjectStore
from actors.storage.tables import from_parquet
from jobs.run.document_check import check_documents, read_if_there
from jobs.run.problem import Problem, redo, write_documents_again
from jobs.run.table_check import check_record, check_table, check_together

_TRIES = 3
"""How often a shard is checked again because a run has committed it once more in the meantime."""


@dataclass(frozen=True, slots=True)
class CheckedShard:
    """The result of checking a shard.

    Attributes:
        shard_id: Name of the shard.
        record: Its commit record, or None if it was deleted meanwhile or can't be read.
        problems: What is wrong with it.
    """

    shard_id: str
    record: CommitRecord | None = None
    problems: list[Problem] = field(default_factory=list)


def check_shard(store: ObjectStore, shard_id: str, quick: bool) -> CheckedShard:
    """Check a committed shard. Memory holds the objects of the shard, unless `quick` is given.

    Args:
        store: The output.
        shard_id: Name of the shard.
        quick: Whether to look only at names and sizes, without reading contents.

    Raises:
        OSError: If the store can't be read.
    """
    path = layout.commit_path(shard_id)
    checked = CheckedShard(shard_id)
    for _ in range(_TRIES):
        try:
            found = read_record(store, shard_id)
        except OutputError as error:
            return CheckedShard(shard_id, None, [Problem(shard_id, path, str(error), redo(store, shard_id))])
        if found is None:
            return CheckedShard(shard_id)
        record, etag = found
        checked = CheckedShard(shard_id, record, list(_problems(store, shard_id, record, quick)))
        # A run may have replaced the record, and deleted the objects of the one that was read here.
        if not checked.problems or _is_current(store, shard_id, etag):
            break
    return checked


def _is_current(store: ObjectStore, shard_id: str, etag: str) -> bool:
    """Return whether the commit record of a shard still has this etag."""
    try:
        found = read_record(store, shard_id)
    except OutputError:
        return False
    return found is not None and found[1] == etag


def _problems(store: ObjectStore, shard_id: str, record: CommitRecord, quick: bool) -> Iterator[Problem]:
    path = layout.commit_path(shard_id)
    remedy = redo(store, shard_id)
    if record.shard_id != shard_id:
        yield Problem(shard_id, path, f"is the commit record of another shard, {record.shard_id}", remedy)
        return
    yield from (Problem(shard_id, path, wrong, remedy) for wrong in check_record(record))
    tables: dict[str, pa.Table] = {}
    tar = None
    for entry in record.objects:
        is_folder = entry.path == layout.json_folder(shard_id)
        if entry.kind == "json" and (is_folder or record.documents == "due"):
            continue
        content, wrong = _check_size(store, entry) if quick else _read(store, entry)
        if wrong is None and content is not None:
            if entry.kind == "json":
                tar = content
            elif entry.kind != "preview":
                table, wrong = _parse(content)
                found = [] if table is None else list(check_table(entry.kind, table, record))
                yield from (Problem(shard_id, entry.path, each, remedy) for each in found)
                if table is not None and not found:
                    tables[entry.kind] = table
        if wrong is not None:
            mend = write_documents_again(store, shard_id) if entry.kind == "json" else remedy
            yield Problem(shard_id, entry.path, wrong, mend)
    paths = {entry.kind: entry.path for entry in record.objects}
    for kind, wrong in check_together(tables):
        yield Problem(shard_id, paths[kind], wrong, remedy)
    yield from check_documents(store, record, None if quick else tables, tar)


def _check_size(store: ObjectStore, entry: CommittedObject) -> tuple[None, str | None]:
    try:
        size_bytes = store.info(entry.path).size_bytes
    except FileNotFoundError:
        return None, "is named in the commit record but missing"
    return None, _other_size(size_bytes, entry)


def _read(store: ObjectStore, entry: CommittedObject) -> tuple[bytes | None, str | None]:
    content = read_if_there(store, entry.path)
    if content is None:
        return None, "is named in the commit record but missing"
    wrong = _other_size(len(content), entry)
    if wrong is None and hashlib.sha256(content).hexdigest() != entry.sha256:
        wrong = "has another SHA-256 than the commit record says: its content was changed"
    return content, wrong


def _other_size(size_bytes: int, entry: CommittedObject) -> str | None:
    if size_bytes == entry.size_bytes:
        return None
    return f"has {size_bytes:,} bytes, but the commit record says {entry.size_bytes:,}"


def _parse(content: bytes) -> tuple[pa.Table | None, str | None]:
    try:
        return from_parquet(content), None
    except (pa.ArrowException, OSError) as error:
        return None, f"is no Parquet table: {error}"
