"""Remove persons from the tables of one shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import pyarrow as pa

from actors.records import FRAMES_SCHEMA, PERSONS_SCHEMA
from actors.shard_block import ShardBlock


def without_persons(block: ShardBlock, gone: Collection[tuple[str, int]]) -> ShardBlock:
    """Return a block without some persons. The others keep their numbers, and frames count who is left.

    Args:
        block: A block with frames and persons.
        gone: Frame keys and person indices.

    Raises:
        ValueError: The block has no frames or no persons.
    """
    if block.frames is None or block.persons is None:
        raise ValueError(f"{block.task.shard.shard_id}: persons must be detected before they are removed")
    if not gone:
        return block
    detected: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    persons = []
    for row in block.persons.to_pylist():
        if (row["frame_key"], row["person_index"]) in gone:
            detected[row["frame_key"]] += 1
            kept[row["frame_key"]] += row["kept"]
        else:
            persons.append(row)
    frames = block.frames.to_pylist()
    for row in frames:
        # A failed frame may have the key of a good one, whose persons these are.
        if row["status"] == "ok":
            row["detected"] -= detected[row["frame_key"]]
            row["kept"] -= kept[row["frame_key"]]
    return replace(
        block,
        frames=pa.Table.from_pylist(frames, FRAMES_SCHEMA),
        persons=pa.Table.from_pylist(persons, PERSONS_SCHEMA),
        annotations={name: _without(table, gone) for name, table in block.annotations.items()},
    )


def _without(answers: pa.Table, gone: Collection[tuple[str, int]]) -> pa.Table:
    # A filtered column would still have the values of the removed rows in its dictionary.
    rows = [row for row in answers.to_pylist() if (row["frame_key"], row["person_index"]) not in gone]
    return pa.Table.from_pylist(rows, answers.schema)
