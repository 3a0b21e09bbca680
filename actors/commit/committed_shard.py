"""Load a committed shard: its input and its tables, as named in the commit record."""

from __future__ import annotations

import base64
from dataclasses import replace

from actors.errors import ShardUnavailableError
from actors.records import Shard
from actors.shard_block import ShardBlock, ShardTask
from actors.storage.commit_record import CommitRecord, InputIdentity, read_record
from actors.storage.object_store import ObjectStore
from actors.storage.tables import from_parquet


def load_committed(block: ShardBlock, output: ObjectStore) -> tuple[ShardBlock, CommitRecord]:
    """Return the block with the tables named in its shard's commit record, and the record.

    Raises:
        ShardUnavailableError: The record was deleted or replaced, or names an object that is missing.
    """
    found = read_record(output, block.task.shard.shard_id)
    if found is None or found[0].attempt_id != block.task.replaces:
        raise ShardUnavailableError("its commit record was changed by another run; run again")
    record = found[0]
    loaded = load_tables(output, record)
    return replace(loaded, task=block.task), record


def load_tables(output: ObjectStore, record: CommitRecord) -> ShardBlock:
    """Return a block with the tables that a commit record names.

    Raises:
        ShardUnavailableError: A table is missing, for example because the record has been replaced.
    """
    tables = {}
    for entry in record.objects:
        if entry.kind.partition("/")[0] not in ("frames", "persons", "annotations"):
            continue
        try:
            tables[entry.kind] = from_parquet(output.read(entry.path))
        except FileNotFoundError as error:
            raise ShardUnavailableError(
                f"{entry.path} is named in the commit record but missing; run again with --force"
            ) from error
    annotations = {kind.partition("/")[2]: table for kind, table in tables.items() if "/" in kind}
    task = ShardTask(shard_from_record(record), "write", replaces=record.attempt_id)
    return ShardBlock(
        task,
        frames=tables.get("frames"),
        persons=tables.get("persons"),
        annotations=annotations,
        keys_not_matched=record.counts.keys_not_matched,
    )


def input_identity(shard: Shard) -> InputIdentity:
    """Return the identity of a shard's input, as stored in the commit record."""
    return InputIdentity(
        uri=shard.uri,
        format=shard.format,
        etag=shard.etag,
        size_bytes=shard.size_bytes,
        start=shard.start,
        stop=shard.stop,
        members=base64.b64encode(shard.members).decode(),
        first_frame=shard.first_frame,
        stop_frame=shard.stop_frame,
    )


def shard_from_record(record: CommitRecord) -> Shard:
    """Return the shard that a commit record belongs to, as it was planned."""
    source = record.input
    return Shard(
        shard_id=record.shard_id,
        uri=source.uri,
        format=source.format,
        etag=source.etag,
        size_bytes=source.size_bytes,
        start=source.start,
        stop=source.stop,
        members=base64.b64decode(source.members),
        first_frame=source.first_frame,
        stop_frame=source.stop_frame,
    )
