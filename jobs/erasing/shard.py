"""Remove persons from the objects of one shard, by a new commit record."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from actors.attributes import AttributeSchema
from actors.commit.accounting import count, count_by_model, count_denied, count_outcomes, sum_costs
from actors.commit.committed_shard import load_tables
from actors.commit.crop_retention import persons_parquet
from actors.commit.documents import Documents, build_documents, document_paths, settle_documents
from actors.commit.preview_frames import previews_of
from actors.erasure.removal import without_persons
from actors.errors import PreconditionError, StoreError
from actors.shard_block import ShardBlock
from actors.storage import layout
from actors.storage.commit_record import (
    CommitRecord,
    CommittedObject,
    new_attempt_id,
    publish,
    read_record,
)
from actors.storage.object_store import ObjectStore
from actors.storage.tables import to_parquet
from jobs.erasing.selection import ChosenShard


def erase_from_shard(store: ObjectStore, schema: AttributeSchema, chosen: ChosenShard) -> None:
    """Commit a shard again without some persons, and delete the objects that had them.

    The new record is written last and conditionally, as that of any attempt. If this is killed before,
    nothing has changed. If it is killed afterwards, no record names the old objects any more, and the
    documents are due.

    Args:
        store: The output.
        schema: The attributes, for tables that don't name theirs.
        chosen: The persons.

    Raises:
        StoreError: Another command has committed the shard meanwhile.
        ShardUnavailableError: An object of the record is missing.
        OSError: The store can't be read or written.
    """
    found = read_record(store, chosen.record.shard_id)
    if found is None or found[0].attempt_id != chosen.record.attempt_id:
        raise _overtaken(chosen.record)
    previous, etag = found
    drawn = {entry.path for entry in previews_of(previous, chosen.frames)}
    if not chosen.persons and not drawn:
        return
    attempt_id = new_attempt_id(previous.attempt + 1)
    before = load_tables(store, previous)
    block = without_persons(before, chosen.keys) if chosen.persons else before
    objects = _tables(block, attempt_id)
    documents = _documents(block, schema, previous)
    stale = document_paths(store, previous, before.persons) - documents.paths
    replaced = {"json", *(entry.kind for entry, _ in objects)}
    carried = [e for e in previous.objects if e.kind not in replaced and e.path not in drawn]
    entries = [*carried, *(entry for entry, _ in objects), *([documents.entry] if documents.entry else [])]
    is_due = bool(documents.files or stale)
    record = previous.model_copy(
        update={
            "attempt": previous.attempt + 1,
            "attempt_id": attempt_id,
            "counts": count(block),
            "annotators": count_outcomes(block.annotations),
            "models": count_by_model(block.annotations),
            "cost_usd": sum_costs(block.annotations),
            "denied": count_denied(block),
            "objects": tuple(entries),
            "documents": "due" if is_due else "written",
            "committed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    store.write_many((entry.path, content) for entry, content in objects)
    try:
        etag = publish(store, record, etag)
    except PreconditionError as error:
        store.delete(entry.path for entry, _ in objects)
        raise _overtaken(previous) from error
    if is_due:
        settle_documents(store, schema, record, etag, documents, stale)
    kept = {entry.path for entry in record.objects}
    store.delete(e.path for e in previous.objects if e.kind != "json" and e.path not in kept)


def finish_documents(store: ObjectStore, schema: AttributeSchema, record: CommitRecord, etag: str) -> None:
    """Write the documents that a killed command owes.

    Raises:
        ShardUnavailableError: An object of the record is missing.
        OSError: The store can't be read or written.
    """
    block = load_tables(store, record)
    documents = _documents(block, schema, record)
    stale = document_paths(store, record, block.persons) - documents.paths
    settle_documents(store, schema, record, etag, documents, stale)


def _tables(block: ShardBlock, attempt_id: str) -> list[tuple[CommittedObject, bytes]]:
    shard_id = block.task.shard.shard_id
    found = [
        ("frames", layout.frames_path(shard_id, attempt_id), to_parquet(block.frames)),
        (
            "persons",
            layout.persons_path(shard_id, attempt_id),
            persons_parquet(block.persons, with_crops=True),
        ),
    ]
    for name, table in block.annotations.items():
        path = layout.annotations_path(name, shard_id, attempt_id)
        found.append((f"annotations/{name}", path, to_parquet(table)))
    return [
        (
            CommittedObject(
                kind=kind, path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
            ),
            content,
        )
        for kind, path, content in found
    ]


def _documents(block: ShardBlock, schema: AttributeSchema, record: CommitRecord) -> Documents:
    entry = record.object("json")
    if entry is None:
        return Documents()
    is_tar = entry.path == layout.json_tar_path(record.shard_id)
    return build_documents(block, "tar" if is_tar else "files", schema)


def _overtaken(record: CommitRecord) -> StoreError:
    return StoreError(f"{record.shard_id}: another command has committed it meanwhile; run erase again")
