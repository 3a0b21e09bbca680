"""The counts of a shard for its commit record and the driver: frames, persons, outcomes and costs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from actors.records import is_denied
from actors.shard_block import ShardBlock
from actors.storage.commit_record import MAX_CAMERAS, CommitRecord, Counts
from actors.storage.tables import METERED


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """The result of a shard, as it is reported to the driver.

    Attributes:
        shard_id: Id of the shard.
        state: State of its commit record, which another attempt may have written; or "postponed" if the shard
            could not be done for a reason that isn't in its content, so that its record stays as it was.
        counts: Counts of the commit record.
        annotators: Number of persons by outcome, for each annotator.
        error: Why the shard failed or is postponed.
        retry: Whether the same run should try a postponed shard again.
        stop_frame: Number of the first frame that the commit left to another shard, or None.
        has_rest: Whether the run processes those frames as a shard of its own because of this commit.
        timings_s: Seconds that each stage took in this attempt.
        attempt: Number of this attempt at the shard.
    """

    shard_id: str
    state: Literal["done", "failed", "postponed"]
    counts: Counts = field(default_factory=Counts)
    annotators: dict[str, dict[str, int]] = field(default_factory=dict)
    error: str | None = None
    retry: bool = False
    stop_frame: int | None = None
    has_rest: bool = False
    timings_s: Mapping[str, float] = field(default_factory=dict)
    attempt: int = 0

    def to_json(self) -> str:
        """Return the summary as one line of JSON."""
        return json.dumps({**asdict(self), "counts": self.counts.model_dump()})

    @classmethod
    def from_block(cls, block: ShardBlock) -> ShardSummary:
        """Read the summary that the last stage put into a block; without one, the shard is postponed."""
        attempt: dict[str, Any] = {"attempt": block.task.attempt, "timings_s": block.timings_s}
        if block.summary is None:
            retry = block.fault == "infrastructure"
            return cls(block.task.shard.shard_id, "postponed", error=block.error, retry=retry, **attempt)
        content = json.loads(block.summary)
        return cls(**{**content, **attempt, "counts": Counts(**content["counts"])})

    @classmethod
    def of_record(cls, record: CommitRecord) -> ShardSummary:
        """Return the summary of a shard that was committed with this record."""
        return cls(
            record.shard_id,
            record.state,
            record.counts,
            record.annotators,
            record.error,
            stop_frame=record.input.stop_frame,
        )


def count(block: ShardBlock) -> Counts:
    """Count frames and persons; every frame of a failed shard counts as failed."""
    if block.frames is None:
        return Counts()
    frames = block.frames.num_rows
    if block.error is not None or block.persons is None:
        return Counts(
            frames=frames,
            frames_failed=frames,
            cameras=_count_cameras(block.frames),
            keys_not_matched=block.keys_not_matched,
        )
    ok = sum(status == "ok" for status in block.frames["status"].to_pylist())
    dropped = Counter(r for r in block.persons["drop_reason"].to_pylist() if r is not None)
    return Counts(
        frames=frames,
        frames_ok=ok,
        frames_failed=frames - ok,
        detected=block.persons.num_rows,
        kept=pc.sum(block.persons["kept"]).as_py() or 0,
        dropped=dict(sorted(dropped.items())),
        cameras=_count_cameras(block.frames),
        keys_not_matched=block.keys_not_matched,
    )


def _count_cameras(frames: pa.Table) -> dict[str, int] | None:
    cameras = Counter(camera for camera in frames["camera"].to_pylist() if camera is not None)
    return dict(sorted(cameras.items())) if len(cameras) <= MAX_CAMERAS else None


def count_outcomes(annotations: Mapping[str, pa.Table]) -> dict[str, dict[str, int]]:
    """Count the persons with each outcome, for each annotator."""
    return {
        name: dict(sorted(Counter(table["status"].to_pylist()).items()))
        for name, table in annotations.items()
    }


def count_by_model(annotations: Mapping[str, pa.Table]) -> dict[str, dict[str, dict[str, int]]]:
    """Count the outcomes that a model gave, by model, for each annotator that is paid per token."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name in METERED:
        if name in annotations:
            rows = annotations[name].select(["model", "status", "reason"]).to_pylist()
            by_model = found[name] = {}
            given = Counter((row["model"], row["status"]) for row in rows if _is_given(row))
            for (model, status), n in sorted(given.items()):
                by_model.setdefault(model, {})[status] = n
    return found


def _is_given(row: dict[str, Any]) -> bool:
    return row["status"] != "pending" and not is_denied(row["status"], row["reason"])


def count_denied(block: ShardBlock) -> dict[str, dict[str, int]] | None:
    """Count the persons that were not sent to an annotator because of their camera, by annotator and camera.

    Frames that name no camera count under "". Returns None if there are more than `MAX_CAMERAS` cameras.
    """
    if block.frames is None:
        return {}
    rows = block.frames.select(["frame_key", "camera", "status"]).to_pylist()
    cameras = {row["frame_key"]: row["camera"] or "" for row in rows if row["status"] == "ok"}
    found = {}
    for name, table in block.annotations.items():
        outcomes = table.select(["frame_key", "status", "reason"]).to_pylist()
        by_camera = Counter(
            cameras.get(row["frame_key"], "") for row in outcomes if is_denied(row["status"], row["reason"])
        )
        if by_camera:
            found[name] = dict(sorted(by_camera.items()))
    return found if all(len(by_camera) <= MAX_CAMERAS for by_camera in found.values()) else None


def sum_costs(annotations: Mapping[str, pa.Table]) -> dict[str, float]:
    """Sum the estimated cost in US dollars of the answers, for each annotator that is paid per token."""
    return {
        name: round(pc.sum(table["cost_usd"]).as_py() or 0.0, 9)
        for name, table in annotations.items()
        if name in METERED
    }
