"""Make the new files of the consolidated tables, in several processes where there is much to read."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import joblib
import pyarrow as pa

from actors.corrections.decision import Decision
from actors.own_process import map_in_processes
from actors.records import RequestCounts
from actors.storage import layout
from actors.storage.commit_record import CommitRecord, read_record
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_some_records
from actors.storage.request_counts import NewRequests, count_also
from actors.storage.snapshot_table import NewFile
from jobs.run.consolidated_file import (
    UNREADABLE,
    FileWriter,
    InOrder,
    ReadShard,
    ShardEntry,
    UnchangedRows,
)
from jobs.run.consolidated_groups import Dependencies, ShardGroup
from jobs.run.consolidated_rows import AnswerColumns, ShardRows, read_current

Read = Callable[[CommitRecord], ShardRows]
ReadOf = Callable[[Sequence[str]], Read]
"""Returns what reads the rows of some shards."""

DAMAGE = (FileNotFoundError, pa.ArrowInvalid)
"""What reading the objects of a record raises if one of them is missing or damaged."""

_MOST_PROCESSES = 8
_SHARDS_PER_PROCESS = 256
"""Shards for which a process is worth its start, which takes as long as reading 200 small ones."""

_requests = NewRequests()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a new file is made from.

    Attributes:
        store: The output.
        folder: The table's folder.
        version: The table's version that the new one follows.
        group: The shards.
        columns: The columns.
        made_with: As in `FileWriter`.
        made_of: What the rows of each shard follow from.
        read: Reads the rows of a shard.
        scratch: A folder on a local disk.
    """

    store: ObjectStore
    folder: str
    version: int
    group: ShardGroup
    columns: pa.Schema
    made_with: str
    made_of: Mapping[str, str]
    read: Read
    scratch: str


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file that was written but isn't part of the table yet.

    Attributes:
        file: The file.
        answers: The columns of the annotations tables that its rows come from.
        incomplete: Maps a shard that is left out to what is damaged.
        lost: Decisions that find no person, by shard.
        requests: The requests to the store, if another process has made the file.
    """

    file: NewFile
    answers: AnswerColumns
    incomplete: Mapping[str, str]
    lost: Mapping[str, tuple[Decision, ...]]
    requests: RequestCounts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileMaker:
    """Makes new files of one table.

    Attributes:
        store: The output.
        folder: The table's folder.
        version: The table's version that the new one follows.
        columns: The columns.
        depends: What the rows follow from beside the records.
        read_of: Returns what reads the rows of some shards. What it returns can be pickled.
        unchanged: The rows of shards that haven't changed.
        records: Number of all records.
    """

    store: ObjectStore
    folder: str
    version: int
    columns: pa.Schema
    depends: Dependencies
    read_of: ReadOf
    unchanged: UnchangedRows
    records: int

    def make(self, groups: Sequence[ShardGroup]) -> Iterator[MadeFile]:
        """Make the files of some groups, several at once where many shards have to be read."""
        # The rows that old files have are at hand in this process only.
        new = [group for group in groups if not any(self._entries(group).values())]
        cores: int = joblib.cpu_count()
        shards = sum(len(group.records) for group in new)
        processes = min(cores, _MOST_PROCESSES, shards // _SHARDS_PER_PROCESS)
        with tempfile.TemporaryDirectory(prefix="shopframe-consolidated-") as scratch:
            if processes > 1:
                yield from self._make_in_processes(new, scratch, processes)
                groups = [group for group in groups if any(self._entries(group).values())]
            yield from self._make_here(groups, scratch)

    def _entries(self, group: ShardGroup) -> dict[str, ShardEntry | None]:
        """Return what an old file has of each shard, or None if the shard has to be read."""
        found: dict[str, ShardEntry | None] = {}
        for shard_id, etag in group.records:
            entry = self.unchanged.entry(shard_id, self.depends.made_of(shard_id, etag))
            found[shard_id] = entry if entry is not None and entry.schema == self.columns else None
        return found

    def _plan(self, group: ShardGroup, scratch: str) -> _Plan:
        return _Plan(
            self.store,
            self.folder,
            self.version,
            group,
            self.columns,
            self.depends.made_with,
            {shard_id: self.depends.made_of(shard_id, etag) for shard_id, etag in group.records},
            self.read_of(group.shard_ids),
            scratch,
        )

    def _records(self, groups: Sequence[ShardGroup]) -> Iterator[CommitRecord]:
        ids = [
            shard_id for group in groups for shard_id, entry in self._entries(group).items() if entry is None
        ]
        return read_some_records(self.store, ids, self.records, keep_index=True)

    def _make_in_processes(
        self, groups: Sequence[ShardGroup], scratch: str, processes: int
    ) -> Iterator[MadeFile]:
        records = InOrder(self._records(groups))
        work = (
            (
                self._plan(group, scratch),
                [found for shard_id in group.shard_ids if (found := records.find(shard_id)) is not None],
            )
            for group in groups
        )
        for made in map_in_processes(_make_alone, work, processes):
            if made is not None:
                count_also(made.requests)
                yield made

    def _make_here(self, groups: Sequence[ShardGroup], scratch: str) -> Iterator[MadeFile]:
        shards = InOrder(map_ahead(self._read_shard, self._records(groups)))
        for group in groups:
            plan = self._plan(group, scratch)
            members = (
                shards.find(shard_id) if entry is None else self._unchanged_shard(entry, plan.read)
                for shard_id, entry in self._entries(group).items()
            )
            made = _make_file(plan, (member for member in members if member is not None))
            if made is not None:
                yield made

    def _read_shard(self, record: CommitRecord) -> ReadShard:
        return _read_shard(self.store, record, self.read_of([record.shard_id]))

    def _unchanged_shard(self, entry: ShardEntry, read: Read) -> ReadShard | None:
        try:
            return ReadShard(entry.shard_id, entry.attempt_id, self.unchanged.read(entry))
        except UNREADABLE:
            found = read_record(self.store, entry.shard_id)
            return None if found is None else _read_shard(self.store, found[0], read)


def _make_alone(work: tuple[_Plan, Sequence[CommitRecord]]) -> MadeFile | None:
    """Make a file from the records of all its shards, in a process that does nothing else meanwhile."""
    plan, records = work
    made = _make_file(plan, map_ahead(partial(_read_shard, plan.store, read=plan.read), records))
    if made is None or multiprocessing.parent_process() is None:
        return made
    return replace(made, requests=_requests.take())


def _make_file(plan: _Plan, shards: Iterable[ReadShard]) -> MadeFile | None:
    """Make a file of the rows of shards, or none if there are no shards any more."""
    shards = iter(shards)
    first = next(shards, None)
    if first is None:
        return None
    digest, incomplete, lost = plan.group.digest, {}, {}
    path = Path(plan.scratch, f"{digest}.parquet")
    with FileWriter(path, plan.columns, plan.made_with) as file:
        for shard in itertools.chain([first], shards):
            if shard.damage is not None:
                incomplete[shard.shard_id] = shard.damage
                # Under another digest the file is out of date until nothing is missing.
                digest = hashlib.sha256(f"{digest} without {shard.shard_id}".encode()).hexdigest()[:16]
            if shard.found is None:
                continue
            if shard.found.lost:
                lost[shard.shard_id] = shard.found.lost
            file.add(shard.shard_id, shard.attempt_id, plan.made_of[shard.shard_id], shard.found)
    name = layout.snapshot_file(plan.group.shard_ids[0], digest, plan.version)
    plan.store.upload(f"{plan.folder}/{name}", path)
    new = NewFile(name, path.stat().st_size, file.rows, file.shard_ids)
    path.unlink()
    return MadeFile(new, file.columns, incomplete, lost)


def _read_shard(store: ObjectStore, record: CommitRecord, read: Read) -> ReadShard:
    """Read the rows of a shard, or what is damaged in it."""
    try:
        found = read_current(store, record, read)
    except DAMAGE as error:
        return ReadShard(record.shard_id, damage=f"{type(error).__name__}: {error}")
    if found is None:
        return ReadShard(record.shard_id)
    newest, rows = found
    return ReadShard(newest.shard_id, newest.attempt_id, rows)
