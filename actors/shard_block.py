"""One shard on its way through the job, and the parcel in which it travels.

A parcel is a Ray Data block of one row: a large shard, or some small ones, which would cost Ray more than the
work on them if each travelled alone. The row carries whole Arrow tables as IPC bytes. A shard therefore can't
be split, merged or counted wrongly on the way, and every stage is a function from one block to one block.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
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
    def from_row(cls, row: Mapping[str, Any]) -> ShardTask:
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

    def to_row(self) -> dict[str, Any]:
        """Return the block as a row that Arrow can hold."""
        return {
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

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ShardBlock:
        """Read back what `to_row` wrote, or make a new block from a row of the plan."""
        if "timings_s" not in row:
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


def parcel_of_tasks(tasks: Sequence[ShardTask]) -> pa.Table:
    """Return a parcel of planned shards, as a table of one row."""
    return pa.Table.from_pylist([{_SHARDS: [task.to_row() for task in tasks]}], schema=_PLAN_SCHEMA)


def to_parcel(blocks: Sequence[ShardBlock]) -> pa.Table:
    """Return a parcel of blocks, as a table of one row."""
    return pa.Table.from_pylist([{_SHARDS: [block.to_row() for block in blocks]}], schema=_PARCEL_SCHEMA)


def from_parcel(table: pa.Table) -> list[ShardBlock]:
    """Return the blocks of a parcel.

    Raises:
        ValueError: The table does not have exactly one row.
    """
    if table.num_rows != 1:
        raise ValueError(f"a parcel must be one row, but this one has {table.num_rows}")
    return [ShardBlock.from_row(row) for row in table[_SHARDS][0].as_py()]


_SHARDS = "shards"
_PLAN_FIELDS = [pa.field("task", pa.string()), pa.field("members", pa.binary())]
_PLAN_SCHEMA = pa.schema([(_SHARDS, pa.list_(pa.struct(_PLAN_FIELDS)))])
_BLOCK_FIELDS = [
    *_PLAN_FIELDS,
    pa.field("frames", pa.large_binary()),
    pa.field("persons", pa.large_binary()),
    pa.field("annotations", pa.list_(pa.struct([("name", pa.string()), ("table", pa.large_binary())]))),
    pa.field("annotated", pa.list_(pa.string())),
    pa.field("previews", pa.list_(pa.struct([("key", pa.string()), ("image", pa.large_binary())]))),
    pa.field("keys_not_matched", pa.int64()),
    pa.field("timings_s", pa.string()),
    pa.field("error", pa.string()),
    pa.field("fault", pa.string()),
    pa.field("summary", pa.string()),
]
_PARCEL_SCHEMA = pa.schema([(_SHARDS, pa.list_(pa.struct(_BLOCK_FIELDS)))])


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
