"""The account of a shard: frames, persons, outcomes and costs, as the record and the driver get them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from actors.shard_block import ShardBlock
from actors.storage.commit_record import CommitRecord, Counts
from actors.storage.tables import METERED


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What the driver learns of a shard.

    `state` is that of the record that counts now; "superseded" if another attempt won, and
    "unrecorded" if not even the failure could be written, or is no reason to give up what was
    committed before (the shard is then still to do).
    """

    shard_id: str
    state: Literal["done", "failed", "superseded", "unrecorded"]
    counts: Counts = field(default_factory=Counts)
    annotators: dict[str, dict[str, int]] = field(default_factory=dict)
    error: str | None = None

    def to_json(self) -> str:
        """The summary as one line."""
        return json.dumps({**asdict(self), "counts": self.counts.model_dump()})

    @classmethod
    def from_block(cls, block: ShardBlock) -> ShardSummary:
        """What the last stage said of a shard; where it failed itself, the shard is still to do."""
        if block.summary is None:
            return cls(block.task.shard.shard_id, "unrecorded", error=block.error)
        content = json.loads(block.summary)
        return cls(**{**content, "counts": Counts(**content["counts"])})

    @classmethod
    def of_record(cls, record: CommitRecord) -> ShardSummary:
        """The summary of a shard that was committed with this record."""
        return cls(record.shard_id, record.state, record.counts, record.annotators, record.error)


def count(block: ShardBlock) -> Counts:
    """Count frames and persons; of a failed shard every frame counts as failed."""
    if block.frames is None:
        return Counts()
    frames = block.frames.num_rows
    if block.error is not None or block.persons is None:
        return Counts(frames=frames, frames_failed=frames)
    ok = sum(status == "ok" for status in block.frames["status"].to_pylist())
    dropped = Counter(r for r in block.persons["drop_reason"].to_pylist() if r is not None)
    return Counts(
        frames=frames,
        frames_ok=ok,
        frames_failed=frames - ok,
        detected=block.persons.num_rows,
        kept=pc.sum(block.persons["kept"]).as_py() or 0,
        dropped=dict(sorted(dropped.items())),
    )


def count_outcomes(annotations: Mapping[str, pa.Table]) -> dict[str, dict[str, int]]:
    """Annotator to outcome to number of persons."""
    return {
        name: dict(sorted(Counter(table["status"].to_pylist()).items()))
        for name, table in annotations.items()
    }


def sum_costs(annotations: Mapping[str, pa.Table]) -> dict[str, float]:
    """Annotator paid by the token to the estimated price of its answers in US dollars."""
    return {
        name: round(pc.sum(table["cost_usd"]).as_py() or 0.0, 9)
        for name, table in annotations.items()
        if name in METERED
    }
