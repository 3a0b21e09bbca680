"""Check that an output is what its commit records say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow.dataset as ds

from actors.errors import OutputError
from actors.storage import layout
from actors.storage.commit_record import read_record
from actors.storage.flat_listing import list_flat, names_in
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.snapshot_table import SnapshotTable
from jobs.run.cut_shards import CutShards
from jobs.run.document_check import unexplained
from jobs.run.problem import Problem
from jobs.run.shard_check import CheckedShard, check_shard
from jobs.run.words import counted

_SHARDS_AT_ONCE = 8
"""Shards whose objects are in memory at a time."""
_SHARDS_AT_ONCE_QUICK = 32


@dataclass(slots=True)
class Verification:
    """A check of an output, and how far it is.

    Attributes:
        store: The output.
        quick: Whether to look only at names and sizes, without reading contents.
        after_shard: Is called after each shard.
        shards: Number of shards that were checked.
        objects: Number of objects that their commit records name, with each document counted.
        problems: Number of problems that were found.
    """

    store: ObjectStore
    quick: bool
    after_shard: Callable[[], None] | None = None
    shards: int = 0
    objects: int = 0
    problems: int = 0
    _kept: dict[str, int] = field(default_factory=dict)
    _documents: set[int] = field(default_factory=set)
    _parts: CutShards = field(default_factory=CutShards)

    def run(self) -> Iterator[Problem]:
        """Yield the problems as they are found.

        The memory holds the objects of a few shards, and a short entry for each other shard.

        Raises:
            OSError: If the store can't be read.
        """
        for problem in self._run():
            self.problems += 1
            yield problem

    def _run(self) -> Iterator[Problem]:
        at_once = _SHARDS_AT_ONCE_QUICK if self.quick else _SHARDS_AT_ONCE
        ids = (layout.shard_id_of(info.path) for info in self.store.list(layout.COMMITS))
        shards = (shard_id for shard_id in ids if shard_id is not None)
        for checked in map_ahead(lambda s: check_shard(self.store, s, self.quick), shards, at_once):
            self._add(checked)
            if self.after_shard is not None:
                self.after_shard()
            yield from checked.problems
        yield from self._parts_that_overlap()
        yield from self._documents_without_record()
        if not self.quick:
            yield from check_snapshot(self.store, self._kept)

    def _add(self, checked: CheckedShard) -> None:
        self.shards += 1
        # The folder of the shard was checked with the shard, whatever the record says about documents.
        self._documents.add(hash(layout.json_folder(checked.shard_id)))
        record = checked.record
        if record is None:
            return
        self._parts.add(record)
        self.objects += sum(entry.count for entry in record.objects)
        self._documents |= {hash(entry.path) for entry in record.objects if entry.kind == "json"}
        if record.documents == "due":
            self._documents.add(hash(layout.json_tar_path(checked.shard_id)))
        if record.state == "done":
            self._kept[checked.shard_id] = record.counts.kept

    def _parts_that_overlap(self) -> Iterator[Problem]:
        for shard_id, other in self._parts.overlaps(self._kept):
            path = layout.commit_path(shard_id)
            remedy = f"run shopframe annotate ... --output {self.store.uri} again, which removes it"
            yield Problem(shard_id, path, f"has frames that {other} has too", remedy)

    def _documents_without_record(self) -> Iterator[Problem]:
        for name in names_in(self.store, layout.DOCUMENTS):
            path = f"{layout.DOCUMENTS}/{name}"
            if hash(path) in self._documents or name.startswith("."):
                continue
            shard_id = layout.shard_of_document(path) or name
            # On a disk, an empty folder stays when its documents are deleted.
            folder = (info.path for info in list_flat(self.store, path))
            is_tar = path == layout.json_tar_path(shard_id)
            holds = is_tar or any(layout.shard_of_document(found) is not None for found in folder)
            if holds and not self._is_named(shard_id, path):
                yield unexplained(self.store, shard_id, path, [path])

    def _is_named(self, shard_id: str, path: str) -> bool:
        """Return whether a record that was committed after the listing names these documents."""
        try:
            found = read_record(self.store, shard_id)
        except OutputError:
            return False
        return found is not None and any(entry.path == path for entry in found[0].objects)


def check_snapshot(store: ObjectStore, kept: Mapping[str, int]) -> Iterator[Problem]:
    """Yield the shards of which `consolidated/` has another number of rows than their kept persons.

    Args:
        store: The output.
        kept: Number of kept persons of each shard that is done.
    """
    rows = _snapshot_rows(store)
    if rows is None:
        return
    for shard_id in sorted(kept.keys() | rows.keys()):
        if rows[shard_id] != kept.get(shard_id, 0):
            said = (
                counted(kept[shard_id], "kept person") if shard_id in kept else "no such shard that is done"
            )
            yield Problem(
                shard_id,
                layout.CONSOLIDATED,
                f"has {counted(rows[shard_id], 'row')} of this shard, but the commit records have {said}",
                f"run shopframe consolidate --output {store.uri}",
            )


def _snapshot_rows(store: ObjectStore) -> Counter[str] | None:
    """Return the number of rows in `consolidated/` by shard, or None if the output has no snapshot."""
    # Without this, an output on a store that can't hold Delta Lake tables could not be verified.
    if not names_in(store, layout.CONSOLIDATED):
        return None
    paths = SnapshotTable(store, layout.CONSOLIDATED).paths()
    if paths is None:
        return None
    rows: Counter[str] = Counter()
    if paths:
        dataset = ds.dataset([store.full(path) for path in paths], filesystem=store.fs, format="parquet")
        for batch in dataset.to_batches(columns=["shard_id"]):
            for counted in batch["shard_id"].value_counts().to_pylist():
                rows[counted["values"]] += counted["counts"]
    return rows
