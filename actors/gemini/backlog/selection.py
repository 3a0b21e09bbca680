"""Choose which persons Gemini is asked about first: by shard, at random, or by SmolVLM's uncertainty."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.commit.accounting import ShardSummary
from actors.gemini.backlog.listing import WaitingShard, read_backlog
from actors.gemini.backlog.uncertainty import UNKNOWN, uncertainty_by_person
from actors.gemini.protocol import DrainTask, Person
from actors.gemini.settings import ANNOTATOR, GeminiSettings, ResolvedGemini
from actors.records import SETTLED, Outcome, is_denied
from actors.storage.commit_record import CommitRecord, read_record
from actors.storage.object_store import ObjectStore
from actors.storage.tables import from_parquet

_KEYS = ["frame_key", "person_index"]


@dataclass(slots=True)
class Backlog:
    """Gemini's part of one run.

    Attributes:
        store: The output.
        settings: Policy and budget.
        resolved: Model and prompt.
        keep: Outcomes that are kept.
        ready: Shards that need nothing else in this run.
        grows: Whether the run itself commits shards.
    """

    store: ObjectStore
    settings: GeminiSettings
    resolved: ResolvedGemini
    keep: tuple[Outcome, ...]
    ready: list[WaitingShard]
    grows: bool = False

    @property
    def _in_order(self) -> bool:
        """Whether a shard can start when it is ready. A choice among all persons needs all shards first."""
        return self.settings.policy == "oldest" and self.settings.max_persons is None

    def at_once(self) -> Iterator[DrainTask]:
        """Yield the tasks that can start before the run's own shards are done."""
        if self._in_order or not self.grows:
            yield from drain_tasks(self.store, self.settings, self.resolved, self.ready, self.keep)

    def committed(self, summary: ShardSummary) -> Iterator[DrainTask]:
        """Yield the task that can start because the run has committed a shard."""
        if self._in_order and summary.state == "done" and summary.counts.kept:
            yield DrainTask(summary.shard_id, self.keep, persons=summary.counts.kept)

    def afterwards(self) -> Iterator[DrainTask]:
        """Yield the tasks that can start when the run's own shards are done."""
        if self.grows and not self._in_order:
            waiting = read_backlog(self.store, self.resolved, self.settings.cameras, self.keep)
            yield from drain_tasks(self.store, self.settings, self.resolved, waiting, self.keep)


def drain_tasks(
    store: ObjectStore,
    settings: GeminiSettings,
    resolved: ResolvedGemini,
    backlog: Iterable[WaitingShard],
    keep: tuple[Outcome, ...] = SETTLED,
) -> Iterator[DrainTask]:
    """Yield the backlog as tasks in the order of `gemini.policy`, with at most `gemini.max_persons` persons.

    The policy `oldest` takes whole shards, of which the last may be incomplete. The other policies choose
    persons from all shards, and order the tasks by the rank of the first person chosen from each shard.
    Without `max_persons` they choose all persons, and the policy only decides the order. Persons whose camera
    is not permitted are never chosen; the last tasks are those of shards that have no others, so that these
    persons get their outcome.

    Args:
        store: The output.
        settings: Policy and budget.
        resolved: Model and prompt.
        backlog: Result of `read_backlog`.
        keep: Outcomes that are kept.
    """
    if settings.policy == "oldest" and settings.max_persons is None:
        yield from (DrainTask(shard.shard_id, keep, persons=shard.persons) for shard in backlog)
        return
    most = settings.max_persons
    chosen: dict[str, list[Person]] = defaultdict(list)
    denied: set[str] = set()
    for shard_id, person in _chosen(store, settings, resolved, list(backlog), keep, most, denied):
        chosen[shard_id].append(person)
    for shard_id, persons in chosen.items():
        yield DrainTask(shard_id, keep, tuple(persons), len(persons))
    yield from (DrainTask(shard_id, keep, ()) for shard_id in sorted(denied - chosen.keys()))


def _chosen(
    store: ObjectStore,
    settings: GeminiSettings,
    resolved: ResolvedGemini,
    backlog: list[WaitingShard],
    keep: tuple[Outcome, ...],
    most: int | None,
    denied: set[str],
) -> list[tuple[str, Person]]:
    """Return the chosen persons in order, and add the shards with persons of other cameras to `denied`."""
    people = _waiting_people(store, settings, resolved, backlog, keep, denied)
    if settings.policy == "oldest":
        found = []
        for shard_id, person, _ in people:
            found.append((shard_id, person))
            if len(found) == most:
                break
        return found
    everybody = sum(shard.persons for shard in backlog)
    wanted = everybody if most is None else most
    audited = wanted if settings.policy == "random" else round(wanted * settings.audit_share)
    # One pass fills two heaps, each at most as large as the budget. One holds the random sample, ranked by a
    # hash that no property of a person can influence; the other holds the least certain persons.
    sample: list[tuple[float, str, Person]] = []
    uncertain: list[tuple[float, str, Person]] = []
    for shard_id, person, uncertainty in people:
        _keep_best(sample, (-_rank(settings.seed, shard_id, person), shard_id, person), audited)
        _keep_best(uncertain, (uncertainty, shard_id, person), wanted)
    ordered = [(shard_id, person) for _, shard_id, person in sorted(sample, reverse=True)]
    taken = set(ordered)
    for _, shard_id, person in sorted(uncertain, reverse=True):
        if settings.policy == "random" or len(ordered) >= wanted:
            break
        if (shard_id, person) not in taken:
            ordered.append((shard_id, person))
    return ordered


def _keep_best(heap: list[tuple[float, str, Person]], entry: tuple[float, str, Person], most: int) -> None:
    if len(heap) < most:
        heapq.heappush(heap, entry)
    elif heap and entry > heap[0]:
        heapq.heapreplace(heap, entry)


def _rank(seed: int, shard_id: str, person: Person) -> float:
    digest = hashlib.sha256(json.dumps([seed, shard_id, *person]).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _waiting_people(
    store: ObjectStore,
    settings: GeminiSettings,
    resolved: ResolvedGemini,
    backlog: Iterable[WaitingShard],
    keep: tuple[Outcome, ...],
    denied: set[str],
) -> Iterator[tuple[str, Person, float]]:
    """Yield shard id, person and how uncertain SmolVLM is about the person (0..1).

    Persons whose camera is not permitted are left out. Their shard is added to `denied` if their outcome
    doesn't say so yet.
    """
    cameras = settings.cameras
    for shard in backlog:
        found = read_record(store, shard.shard_id)
        if found is None:
            continue
        record = found[0]
        settled: set[Person] = set()
        known: set[Person] = set()
        question = resolved.question
        if question.is_asked_by(record.fingerprints.get(ANNOTATOR)):
            answers = _rows(store, record, f"annotations/{ANNOTATOR}", [*_KEYS, "status", "reason", "model"])
            settled = {
                _person(row)
                for row in answers
                if row["status"] in keep
                and question.accepts(row["model"])
                and not is_denied(row["status"], row["reason"])
            }
            known = {_person(row) for row in answers if row["status"] == "denied"}
        camera_of: dict[str, str | None] = {}
        if cameras.is_limited:
            frames = _rows(store, record, "frames", ["frame_key", "camera"])
            camera_of = {row["frame_key"]: row["camera"] for row in frames}
        uncertainty: dict[Person, float] = {}
        local = record.object("annotations/smolvlm")
        if local is not None:
            table = from_parquet(store.read(local.path))
            uncertainty = uncertainty_by_person(table, settings.attribute_weights)
        for row in _rows(store, record, "persons", [*_KEYS, "kept"]):
            if not row["kept"] or _person(row) in settled:
                continue
            if not cameras.permits(camera_of.get(row["frame_key"])):
                if _person(row) not in known:
                    denied.add(record.shard_id)
            else:
                yield record.shard_id, _person(row), uncertainty.get(_person(row), UNKNOWN)


def _person(row: dict[str, Any]) -> Person:
    return row["frame_key"], row["person_index"]


def _rows(store: ObjectStore, record: CommitRecord, kind: str, columns: list[str]) -> list[dict[str, Any]]:
    entry = record.object(kind)
    if entry is None:
        return []
    with store.open(entry.path) as stream:
        table: pa.Table = pq.read_table(stream, columns=columns)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
