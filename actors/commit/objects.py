"""Build the names and contents of the objects that are written for a block, without access to the store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa

from actors.attributes import AttributeSchema
from actors.commit.crop_retention import needs_crops, persons_parquet
from actors.commit.previews import preview_of_block
from actors.commit.settings import OutputSettings
from actors.records import FRAMES_SCHEMA
from actors.shard_block import ShardBlock
from actors.storage import layout
from actors.storage.commit_record import CommitRecord, CommittedObject
from actors.storage.tables import to_parquet


@dataclass(frozen=True, slots=True)
class NewObject:
    """One object of an attempt.

    Attributes:
        entry: The entry in the commit record.
        content: The content.
    """

    entry: CommittedObject
    content: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at committing a shard.

    Attributes:
        block: The shard's results from the stages.
        attempt_id: Part of the names of the Parquet files that the attempt writes.
        fingerprints: Fingerprints by stage for the new record.
        previous: The record that this attempt replaces, or None.
    """

    block: ShardBlock
    attempt_id: str
    fingerprints: dict[str, str]
    previous: CommitRecord | None


def build_objects(
    attempt: Attempt, settings: OutputSettings, schema: AttributeSchema, enabled: dict[str, str]
) -> list[NewObject]:
    """Build everything that the attempt writes before its commit record, which is all but the documents.

    For a failed shard these are only its frames, all with status "error". A table from the previous commit is
    not written again, unless its crops are no longer needed.

    Args:
        attempt: What to commit.
        settings: The `output` settings.
        schema: The attributes.
        enabled: Fingerprints of this run by stage, including its annotators.
    """
    block, attempt_id = attempt.block, attempt.attempt_id
    shard_id = block.task.shard.shard_id
    if block.error is not None:
        return _failed_frames(block, attempt_id)
    objects = []
    if block.task.work == "detect":
        objects.append(_object("frames", layout.frames_path(shard_id, attempt_id), to_parquet(block.frames)))
    with_crops = needs_crops(settings.keep_crops, enabled, attempt.fingerprints, block.annotations)
    persons = _object(
        "persons", layout.persons_path(shard_id, attempt_id), persons_parquet(block.persons, with_crops)
    )
    previous = attempt.previous if block.task.work != "detect" else None
    committed = previous.object("persons") if previous is not None else None
    if committed is None or committed.sha256 != persons.entry.sha256:
        objects.append(persons)
    for name in block.annotated:
        path = layout.annotations_path(name, shard_id, attempt_id)
        objects.append(_object(f"annotations/{name}", path, to_parquet(block.annotations[name])))
    for frame_key, drawn in preview_of_block(block, schema, settings.preview_max_side_px):
        objects.append(_object("preview", layout.preview_path(shard_id, attempt_id, frame_key), drawn))
    return objects


def _failed_frames(block: ShardBlock, attempt_id: str) -> list[NewObject]:
    if block.frames is None:
        return []
    path = layout.frames_path(block.task.shard.shard_id, attempt_id)
    return [_object("frames", path, to_parquet(_all_failed(block.frames, str(block.error))))]


def _all_failed(frames: pa.Table, error: str) -> pa.Table:
    """Return the frames with status "error": a failed shard has no output, so none of its frames is ok."""
    rows = [
        row if row["status"] == "error" else {**row, "status": "error", "error": f"shard failed: {error}"}
        for row in frames.to_pylist()
    ]
    return pa.Table.from_pylist([{**row, "detected": 0, "kept": 0} for row in rows], FRAMES_SCHEMA)


def _object(kind: str, path: str, content: bytes) -> NewObject:
    entry = CommittedObject(kind=kind, path=path, size_bytes=len(content), sha256=_sha256(content))
    return NewObject(entry, content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
