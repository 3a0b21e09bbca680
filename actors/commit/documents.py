"""The JSON documents of a shard, which are written after its commit record.

Their paths don't contain the attempt, because each person has one stable path. So only the attempt that has
won writes them, and it marks the record when they are complete. A record without the mark tells the next run
to write them again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from actors.attributes import AttributeSchema
from actors.commit.committed_shard import load_tables
from actors.errors import PreconditionError, ShardUnavailableError
from actors.shard_block import ShardBlock
from actors.storage import layout
from actors.storage.commit_record import CommitRecord, CommittedObject, publish, read_record
from actors.storage.object_store import ObjectStore
from actors.storage.person_json import person_documents, to_tar

_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of one version of a shard.

    Attributes:
        entry: Their entry in the commit record, or None if the version has no documents.
        files: Path in the output and content of each file.
    """

    entry: CommittedObject | None = None
    files: tuple[tuple[str, bytes], ...] = ()

    @property
    def paths(self) -> set[str]:
        """The paths of the files."""
        return {path for path, _ in self.files}


def build_documents(block: ShardBlock, person_json: str, schema: AttributeSchema) -> Documents:
    """Build the documents of a shard, without access to the store.

    Args:
        block: A block with its annotations, or a failed one, which has no documents.
        person_json: Value of `output.person_json`.
        schema: The attributes, for tables that don't name theirs.
    """
    if person_json == "none" or block.error is not None:
        return Documents()
    shard_id = block.task.shard.shard_id
    documents = person_documents(block.frames, block.persons, block.annotations, schema)
    if person_json == "tar":
        path, content = layout.json_tar_path(shard_id), to_tar(documents)
        entry = CommittedObject(kind="json", path=path, size_bytes=len(content), sha256=_sha256(content))
        return Documents(entry, ((path, content),))
    folder = layout.json_folder(shard_id)
    named = sorted(documents)
    digest = "\n".join(f"{_sha256(content)}  {name}" for name, content in named)
    entry = CommittedObject(
        kind="json",
        path=folder,
        size_bytes=sum(len(content) for _, content in named),
        sha256=_sha256(digest.encode()),
        count=len(named),
    )
    return Documents(entry, tuple((f"{folder}/{name}", content) for name, content in named))


def document_paths(store: ObjectStore, record: CommitRecord | None, persons: pa.Table | None) -> set[str]:
    """Return the paths of the documents that may exist beside a commit record.

    They are listed only where documents are due, because a dead worker may have left some of earlier
    records.

    Args:
        store: The output.
        record: The record, or None if there is none.
        persons: The persons of the record, or None if they must be read.
    """
    if record is None:
        return set()
    folder = layout.json_folder(record.shard_id)
    if record.documents == "due":
        return {found.path for found in store.list(folder)} | {layout.json_tar_path(record.shard_id)}
    entry = record.object("json")
    if entry is None:
        return set()
    if entry.path != folder:
        return {entry.path}
    if persons is None:
        try:
            persons = _read_persons(store, record)
        except FileNotFoundError:
            return {found.path for found in store.list(folder)}
    kept = persons.filter(persons["kept"]).select(["frame_key", "person_index"])
    return {f"{folder}/{layout.person_json_name(**row)}" for row in kept.to_pylist()}


def settle_documents(
    store: ObjectStore,
    schema: AttributeSchema,
    record: CommitRecord,
    etag: str,
    documents: Documents,
    stale: set[str],
) -> None:
    """Write the documents of a record that was just published, delete stale ones, and mark the record.

    If another attempt has committed meanwhile, documents of this one may have replaced documents of the
    other. They are then made again from what the other has committed, whatever its own worker does.

    Args:
        store: The output.
        schema: The attributes, for tables that don't name theirs.
        record: The record, whose documents are due.
        etag: Its etag.
        documents: Its documents.
        stale: Paths of documents of the previous record that it doesn't have.

    Raises:
        OSError: The store can't be written. The documents stay due, and the next run writes them.
    """
    touched = documents.paths | stale
    current: Documents | None = documents
    for _ in range(_ROUNDS):
        if current is not None:
            store.write_many(current.files)
            store.delete(touched - current.paths)
            touched |= current.paths
            if _is_settled(store, record, etag):
                return
        found = read_record(store, record.shard_id)
        if found is None:
            store.delete(touched)
            return
        record, etag = found
        current = _documents_of(store, record, schema)


def settle_due(store: ObjectStore, schema: AttributeSchema, record: CommitRecord, etag: str) -> None:
    """Write the documents of a record, from its tables, if its worker may have died before it wrote them all.

    If that worker is alive after all, both write the same.

    Args:
        store: The output.
        schema: The attributes, for tables that don't name theirs.
        record: The record.
        etag: Its etag.

    Raises:
        OSError: The store can't be written.
    """
    if record.documents != "due":
        return
    documents = _documents_of(store, record, schema)
    if documents is not None:
        stale = document_paths(store, record, None) - documents.paths
        settle_documents(store, schema, record, etag, documents, stale)


def _is_settled(store: ObjectStore, record: CommitRecord, etag: str) -> bool:
    """Mark a record's documents as written, and return whether the record is still the current one."""
    if record.documents == "written":
        found = read_record(store, record.shard_id)
        return found is not None and found[1] == etag
    try:
        publish(store, record.model_copy(update={"documents": "written"}), etag)
    except PreconditionError:
        return False
    return True


def _documents_of(store: ObjectStore, record: CommitRecord, schema: AttributeSchema) -> Documents | None:
    """Build the documents of a record from its tables. Returns None if it has been replaced meanwhile."""
    entry = record.object("json")
    if entry is None:
        return Documents()
    is_tar = entry.path == layout.json_tar_path(record.shard_id)
    try:
        block = load_tables(store, record)
    except ShardUnavailableError:
        return None
    return build_documents(block, "tar" if is_tar else "files", schema)


def _read_persons(store: ObjectStore, record: CommitRecord) -> pa.Table:
    entry = record.object("persons")
    if entry is None:
        raise FileNotFoundError(f"{record.shard_id}: the commit record names no table of persons")
    with store.open(entry.path) as stream:
        return pq.read_table(stream, columns=["frame_key", "person_index", "kept"])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
