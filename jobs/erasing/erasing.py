"""Erase persons from an output.

What was made from their crops goes first, and the commit record of their shard is replaced last. A killed
erasure therefore finds them again in the tables and begins again, until the record is replaced. From then on,
only objects are left that no record names; every erasure ends by deleting these.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from actors.attributes import AttributeSchema
from actors.commit.committed_shard import shard_from_record
from actors.commit.preview_frames import previews_of
from actors.corrections.decision import Box
from actors.corrections.settings import ConsensusSettings
from actors.erasure.left_out import read_left_out, remember, remember_before
from actors.errors import ConfigError
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from actors.storage.snapshot_table import SnapshotTable
from jobs.erasing.selection import ChosenShard, Selection, choose, choose_named
from jobs.erasing.shard import erase_from_shard, finish_documents
from jobs.erasing.traces import erase_traces
from jobs.run.consolidation import consolidate_output
from jobs.run.leftovers import LeftoverFinder
from jobs.run.presence import erasing
from jobs.run.run_log import iso_now
from jobs.run.sweep import delete_dead

_AT_ONCE = 100_000
"""Persons and frames whose traces are looked for in one pass over answers and logs. It bounds the memory."""

_DAY_S = 24 * 3600.0


@dataclass(slots=True)
class Erased:
    """What an erasure has removed, or would remove.

    Attributes:
        shards: Shards from which persons are removed.
        counts: Number of things by kind.
        without_time: Number of frames without a time, which no erasure by time reaches.
        again: Whether an earlier erasure was about the same person.
    """

    shards: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    without_time: int = 0
    again: bool = False


@dataclass(frozen=True, slots=True)
class Eraser:
    """Erases persons from one output.

    Attributes:
        store: The output.
        schema: The attributes, for tables that don't name theirs, and for the consolidated tables.
        consensus: The `consensus` settings, for the consolidated tables.
    """

    store: ObjectStore
    schema: AttributeSchema
    consensus: ConsensusSettings

    def look(self, selection: Selection) -> Erased:
        """Return what an erasure would remove, and change nothing.

        Raises:
            ConfigError: Nobody is selected.
            OutputError, StoreError: Something in the output can't be read.
            OSError: The store can't be read.
        """
        done = Erased()
        for chosen in self._batches(selection, done):
            self._erase_traces(chosen, done, apply=False)
        self._expect_somebody(selection, done)
        return done

    def erase(self, selection: Selection) -> Erased:
        """Erase the selected persons, and return what was removed.

        Raises:
            ConfigError: Nobody is selected, or a run works on the output.
            OutputError, StoreError: Something in the output can't be read.
            OSError: The store can't be read or written.
        """
        with erasing(self.store):
            if selection.before is None:
                # Otherwise, a mistyped name would leave a record of an erasure.
                self.look(selection)
            done, erasure_id = Erased(), layout.new_run_id()
            self._record(erasure_id, "begun", selection, {})
            if selection.before is not None:
                remember_before(self.store, selection.before)
            for chosen in self._batches(selection, done):
                for shard in chosen:
                    self._remember(selection, shard)
                self._erase_traces(chosen, done, apply=True)
                for shard in chosen:
                    erase_from_shard(self.store, self.schema, shard)
            self._finish(done)
            self._expect_somebody(selection, done)
            self._record(erasure_id, "done", selection, dict(sorted(done.counts.items())))
        return done

    def _batches(self, selection: Selection, done: Erased) -> Iterator[list[ChosenShard]]:
        batch: list[ChosenShard] = []
        for shard in self._chosen(selection):
            done.without_time += shard.without_time
            if not shard.frames:
                continue
            done.shards += bool(shard.persons)
            done.counts["frames"] += len(shard.frames)
            done.counts["persons"] += len(shard.persons)
            if shard.record.object("json") is not None:
                done.counts["documents"] += self._kept(shard)
            done.counts["previews"] += len(previews_of(shard.record, shard.frames))
            batch.append(shard)
            if sum(len(one.persons) + len(one.frames) for one in batch) >= _AT_ONCE:
                yield batch
                batch = []
        if batch:
            yield batch

    def _chosen(self, selection: Selection) -> Iterable[ChosenShard]:
        named = selection.kind in ("person", "frame")
        return choose_named(self.store, selection) if named else choose(self.store, selection)

    def _kept(self, shard: ChosenShard) -> int:
        return sum(person.crop_sha256 is not None for person in shard.persons)

    def _erase_traces(self, chosen: Sequence[ChosenShard], done: Erased, apply: bool) -> None:
        done.counts.update(erase_traces(self.store, chosen, apply))

    def _remember(self, selection: Selection, shard: ChosenShard) -> None:
        if selection.before is not None:
            return
        source = shard_from_record(shard.record)
        if selection.frames_whole:
            remember(self.store, source, dict.fromkeys(sorted(shard.frames)))
            return
        boxes: dict[str, dict[int, Box]] = {}
        for person in shard.persons:
            boxes.setdefault(person.frame_key, {})[person.person_index] = person.bbox
        remember(self.store, source, boxes)

    def _expect_somebody(self, selection: Selection, done: Erased) -> None:
        if done.counts["frames"] or selection.before is not None:
            return
        if self._was_erased(selection):
            done.again = True
            return
        what = {"person": "person", "frame": "frame", "camera": "frame of camera"}[selection.kind]
        hint = (
            "; the id of a person is SHARD/FRAME/NUMBER, as in the path of its document"
            if selection.kind == "person"
            else ""
        )
        raise ConfigError(f"--{selection.kind}: no {what} {selection.name!r} in {self.store.uri}{hint}")

    def _was_erased(self, selection: Selection) -> bool:
        """Return whether an earlier erasure was about a person."""
        name, _, number = selection.name.rpartition("/")
        if selection.kind != "person" or not number.isdecimal():
            return False
        frame = Selection("frame", name)
        for shard in choose_named(self.store, frame):
            found = read_left_out(self.store, shard_from_record(shard.record))
            if found is not None and any(found.was_erased(key, int(number)) for key in shard.frames):
                return True
        return False

    def _finish(self, done: Erased) -> None:
        """Remove what no record names, and every earlier version of the consolidated tables.

        No run works on the output now, so nothing that is unnamed can still be needed.
        """
        for record, etag in read_records(self.store):
            if record.documents == "due":
                finish_documents(self.store, self.schema, record, etag)
        leftovers = LeftoverFinder(self.store, dead_after_s=-_DAY_S).find_all()
        for leftover in delete_dead(self.store, (one for one in leftovers if one.kind != "claims")):
            done.counts["leftovers of other commands"] += leftover.dead
        if SnapshotTable(self.store, layout.CONSOLIDATED).paths() is not None:
            consolidate_output(self.store, self.schema, self.consensus, keep_versions_days=0)

    def _record(self, erasure_id: str, step: str, selection: Selection, counts: dict[str, int]) -> None:
        content = {
            "at": iso_now(),
            "step": step,
            "selection": selection.kind,
            "shopframe": version("shopframe"),
            "counts": counts,
        }
        self.store.create(layout.erasure_path(erasure_id, step), f"{json.dumps(content)}\n".encode())
