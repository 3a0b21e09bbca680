"""One shard on its way through the job: a Ray Data block of one row.

The row carries whole Arrow tables as IPC bytes. A shard therefore can't be split, merged or counted
wrongly on the way, and every stage is a function from one block to one block.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import pyarrow as pa

from actors.records import Shard

Work = Literal["detect", "annotate", "write"]
"""Where to begin: "detect" with the frames, "annotate" with committed crops, "write" with annotations."""

Fault = Literal["input", "infrastructure", "unavailable"]
"""Why a shard could not be done.

input           its content can't be used, or it kills every worker; the shard is recorded as failed
infrastructure  a store, device, node or our own code failed; the shard is tried again, then postponed
unavailable     it can't be processed before something outside the run has changed; the shard is postponed
"""


class ReportProgress(Protocol):
    """Function that a stage calls with what it has done since the last call."""

    def __call__(self, frames: int = 0, persons: int = 0, answers: int = 0) -> None:
        """Report frames that were read, persons that are kept, and answers about persons."""


def report_nothing(frames: int = 0, persons: int = 0, answers: int = 0) -> None:
    """Drop the report, where nobody watches the progress."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One row of the plan.

    Attributes:
        shard: What to read.
        work: Where to begin.
        replaces: Id of the committed attempt that this one replaces, or None if there is none.
        attempt: Number of this attempt at the shard over all runs, from 1.
        previews: Number of frames of the shard to draw.
        retry_outcomes: Outcomes to ask for again if `work` is "annotate", or None for all persons.
        recall: Whether a local model need not be asked about crops that it has answered before.
    """

    shard: Shard
    work: Work
    replaces: str | None = None
    attempt: int = 1
    previews: int = 0
    retry_outcomes: tuple[str, ...] | None = None
    recall: bool = True

    def to_row(self) -> dict[str, Any]:
        """Return the task as a row of the plan."""
        content: dict[str, Any] = dataclasses.asdict(self)
        members = content["shard"].pop("members")
        return {"task": json.dumps(content), "members": members}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> ShardTask:
        """Read back what `to_row` wrote."""
        content = json.loads(row["task"])
        retry = content.pop("retry_outcomes")
        shard = Shard(**content.pop("shard"), members=row["members"])
        return cls(shard=shard, retry_outcomes=None if retry is None else tuple(retry), **content)


@dataclass(frozen=True, slots=True)
class ShardBlock:
    """Everything known about a shard so far; each stage returns a new block and leaves the old one unchanged.

    Attributes:
        task: Row of the plan for this shard.
        frames: Table in FRAMES_SCHEMA, sorted by key; None until the frames are read.
        persons: Table in PERSONS_SCHEMA, sorted by frame key and person index; None until detection.
        annotations: Table of each annotator by name (see `actors.storage.tables`), one row per kept person.
        annotated: Names of the annotators whose tables were made in this attempt.
        previews: Encoded images to draw on, by frame key.
        keys_not_matched: Number of frames whose keys don't match `input.key_pattern`; None without a pattern.
        timings_s: Seconds spent in each stage.
        error: Why the shard could not be done; the later stages pass the block on to the commit.
        fault: Kind of the `error`; None if there is none.
        summary: Summary of the commit, as JSON (`actors.commit.accounting.ShardSummary`).
    """

    task: ShardTask
    frames: pa.Table | None = None
    persons: pa.Table | None = None
    annotations: Mapping[str, pa.Table] = field(default_factory=dict)
    annotated: tuple[str, ...] = ()
    previews: Mapping[str, bytes] = field(default_factory=dict)
    keys_not_matched: int | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    fault: Fault | None = None
    summary: str | None = None

    def with_answers(self, annotator: str, table: pa.Table) -> ShardBlock:
        """Return the block with an annotator's table that was made in this attempt."""
        annotated = (*(name for name in self.annotated if name != annotator), annotator)
        return replace(self, annotations={**self.annotations, annotator: table}, annotated=annotated)

    def failed(self, error: str) -> ShardBlock:
        """Return the block of a shard with a fault of its input.

        It has the error, and the frames, because each of them gets a row.
        """
        return ShardBlock(
            self.task,
            frames=self.frames,
            keys_not_matched=self.keys_not_matched,
            timings_s=self.timings_s,
            error=error,
            fault="input",
        )

    def postponed(self, error: str, fault: Fault) -> ShardBlock:
        """Return the block of a shard that could not be done for a reason that isn't in its content."""
        return ShardBlock(self.task, timings_s=self.timings_s, error=error, fault=fault)

    def committed(self, summary: str) -> ShardBlock:
        """Return the block of a committed shard, reduced to what the driver needs."""
        task = replace(self.task, shard=replace(self.task.shard, members=b""))
        return ShardBlock(task, timings_s=self.timings_s, summary=summary)

    def kept_persons(self) -> pa.Table:
        """Return the kept rows of `persons`.

        Raises:
            ValueError: Detection has not run yet.
        """
        if self.persons is None:
            raise ValueError(f"{self.task.shard.shard_id}: persons must be detected before annotation")
        return self.persons.filter(self.persons["kept"])

    def to_arrow(self) -> pa.Table:
        """Return the block as a table of one row."""
        row = {
            **self.task.to_row(),
            "frames": _to_ipc(self.frames),
            "persons": _to_ipc(self.persons),
            "annotations": [{"name": n, "table": _to_ipc(t)} for n, t in self.annotations.items()],
            "annotated": list(self.annotated),
            "previews": [{"key": k, "image": v} for k, v in self.previews.items()],
            "keys_not_matched": self.keys_not_matched,
            "timings_s": json.dumps(dict(self.timings_s)),
            "error": self.error,
            "fault": self.fault,
            "summary": self.summary,
        }
        return pa.Table.from_pylist([row], schema=_BLOCK_SCHEMA)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> ShardBlock:
        """Read back what `to_arrow` wrote, or make a new block from a row of the plan.

        Raises:
            ValueError: The table does not have exactly one row.
        """
        if table.num_rows != 1:
            raise ValueError(f"a block must hold one shard, but this one holds {table.num_rows}")
        row = table.to_pylist()[0]
        if table.column_names == ["task", "members"]:
            return cls(ShardTask.from_row(row))
        return cls(
            task=ShardTask.from_row(row),
            frames=_from_ipc(row["frames"]),
            persons=_from_ipc(row["persons"]),
            annotations={a["name"]: _from_ipc(a["table"]) for a in row["annotations"]},
            annotated=tuple(row["annotated"]),
            previews={p["key"]: p["image"] for p in row["previews"]},
            keys_not_matched=row["keys_not_matched"],
            timings_s=json.loads(row["timings_s"]),
            error=row["error"],
            fault=row["fault"],
            summary=row["summary"],
        )


_BLOCK_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("members", pa.binary()),
        ("frames", pa.large_binary()),
        ("persons", pa.large_binary()),
        ("annotations", pa.list_(pa.struct([("name", pa.string()), ("table", pa.large_binary())]))),
        ("annotated", pa.list_(pa.string())),
        ("previews", pa.list_(pa.struct([("key", pa.string()), ("image", pa.large_binary())]))),
        ("keys_not_matched", pa.int64()),
        ("timings_s", pa.string()),
        ("error", pa.string()),
        ("fault", pa.string()),
        ("summary", pa.string()),
    ]
)


def _to_ipc(table: pa.Table | None) -> memoryview | None:
    """Return a table as IPC bytes, without a copy of them: crops are most of the memory of a worker."""
    if table is None:
        return None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def _from_ipc(content: bytes | None) -> pa.Table | None:
    if content is None:
        return None
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all()
