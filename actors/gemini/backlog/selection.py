"""Choose which persons Gemini is asked about first: by shard, at random, or by SmolVLM's uncertainty."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
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
        return _takes_whole_shards(self.settings)

    def at_once(self) -> Iterator[DrainTask]:
        """Yield the tasks that can start before the run's own shards are done."""
        if self._in_order or not self.grows:
            yield from drain_tasks(self.store, self.settings, self.resolved, self.ready, self.keep)

    def committed(self, summary: ShardSummary) -> Iterator[DrainTask]:
        """Yield the task that can start because the run has committed a shard."""
        if self._in_order and summary.state == "done" and summary.counts.kept:
            first_only = _spreads(self.settings, self.resolved)
            kept = summary.counts.kept
            yield DrainTask(summary.shard_id, self.keep, persons=kept, first_only=first_only)

    def afterwards(self) -> Iterator[DrainTask]:
        """Yield the tasks that can start when the run's own shards are done."""
        if self.grows and not self._in_order:
            waiting = read_backlog(self.store, self.resolved, self.settings.cameras, self.keep)
            yield from drain_tasks(self.store, self.settings, self.resolved, waiting, self.keep)


def _takes_whole_shards(settings: GeminiSettings) -> bool:
    return settings.policy == "oldest" and settings.max_persons is None


def _spreads(settings: GeminiSettings, resolved: ResolvedGemini) -> bool:
    """Return whether one person of each group is asked about before all others.

    Where answers are shared, nobody else is asked about. Batch mode asks about everybody at the same time,
    and a random sample stays one.
    """
    is_ordered = settings.mode == "online" and settings.policy != "random"
    return is_ordered and resolved.groups_within_s > 0 and not resolved.reuse.is_on


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
    is not permitted, or who inherit an answer, are never chosen; the last tasks are those of shards that have
    no others, so that these persons get their outcome.

    Where a budget or a quota may end the run, one person of each group is chosen before all others, who are
    then asked about later (`DrainTask.rest`).

    Args:
        store: The output.
        settings: Policy and budget.
        resolved: Model and prompt.
        backlog: Result of `read_backlog`.
        keep: Outcomes that are kept.
    """
    spreads = _spreads(settings, resolved)
    if _takes_whole_shards(settings):
        for shard in backlog:
            yield DrainTask(shard.shard_id, keep, persons=shard.persons, first_only=spreads)
        return
    unasked: set[str] = set()
    first: dict[str, list[Person]] = defaultdict(list)
    later: dict[str, list[Person]] = defaultdict(list)
    for found in _chosen(store, settings, resolved, list(backlog), keep, settings.max_persons, unasked):
        waits = spreads and not found.is_first
        (later if waits else first)[found.shard_id].append(found.person)
    for shard_id, persons in first.items():
        then = tuple(later.pop(shard_id, ()))
        yield DrainTask(shard_id, keep, tuple(persons), len(persons), later=then)
    yield from (
        DrainTask(shard_id, keep, tuple(persons), len(persons)) for shard_id, persons in later.items()
    )
    yield from (DrainTask(shard_id, keep, ()) for shard_id in sorted(unasked - first.keys() - later.keys()))


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    """A person who waits.

    Attributes:
        is_first: Whether the person comes before the others of the group, or is in none.
        uncertainty: How uncertain SmolVLM is about the person (0..1).
        shard_id: Id of the shard.
        person: The person.
    """

    is_first: bool
    uncertainty: float
    shard_id: str
    person: Person


def _chosen(
    store: ObjectStore,
    settings: GeminiSettings,
    resolved: ResolvedGemini,
    backlog: list[WaitingShard],
    keep: tuple[Outcome, ...],
    most: int | None,
    unasked: set[str],
) -> list[_Waiting]:
    """Return the chosen persons in order, and add shards with persons who need no question to `unasked`."""
    people = _waiting_people(store, settings, resolved, backlog, keep, unasked)
    if settings.policy == "oldest":
        first: list[_Waiting] = []
        others: list[_Waiting] = []
        for waiting in people:
            if len(first) == most:
                break
            if waiting.is_first:
                first.append(waiting)
            elif most is None or len(others) < most:
                others.append(waiting)
        return (first + others)[:most]
    everybody = sum(shard.persons for shard in backlog)
    wanted = everybody if most is None else most
    audited = wanted if settings.policy == "random" else round(wanted * settings.audit_share)
    # One pass fills two heaps, each at most as large as the budget. One holds the random sample, ranked by a
    # hash that no property of a person can influence; the other holds the least certain persons.
    sample: list[tuple[float, _Waiting]] = []
    uncertain: list[tuple[float, _Waiting]] = []
    for waiting in people:
        _keep_best(sample, (-_rank(settings.seed, waiting.shard_id, waiting.person), waiting), audited)
        _keep_best(uncertain, (0.0, waiting), wanted)
    # Those of the sample come first whatever their groups, so that it stays one where the quota ends early.
    ordered = [replace(waiting, is_first=True) for _, waiting in sorted(sample, reverse=True)]
    taken = {(waiting.shard_id, waiting.person) for waiting in ordered}
    for _, waiting in sorted(uncertain, reverse=True):
        if settings.policy == "random" or len(ordered) >= wanted:
            break
        if (waiting.shard_id, waiting.person) not in taken:
            ordered.append(waiting)
    return ordered


def _keep_best(heap: list[tuple[float, _Waiting]], entry: tuple[float, _Waiting], most: int) -> None:
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
    unasked: set[str],
) -> Iterator[_Waiting]:
    """Yield the persons to ask about.

    Persons whose camera is not permitted, and those who inherit an answer, are left out. Their shard is added
    to `unasked` if their outcome doesn't say so yet.
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
        columns = [*_KEYS, "status", "reason", "model", "reuse_group"]
        answers = _rows(store, record, f"annotations/{ANNOTATOR}", columns)
        if question.is_asked_by(record.fingerprints.get(ANNOTATOR)):
            shares = question.shares_as(record.fingerprints.get(ANNOTATOR))
            settled = {
                _person(row)
                for row in answers
                if row["status"] in keep
                and question.accepts(row["model"])
                and not is_denied(row["status"], row["reason"])
                and (shares or row["status"] != "inherited")
            }
            known = {_person(row) for row in answers if row["status"] == "denied"}
        later = _later_in_groups(answers, settled) if resolved.groups_within_s else set()
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
            person = _person(row)
            if not row["kept"] or person in settled:
                continue
            if not cameras.permits(camera_of.get(row["frame_key"])):
                if person not in known:
                    unasked.add(record.shard_id)
            elif person in later and resolved.reuse.is_on:
                unasked.add(record.shard_id)
            else:
                unsure = uncertainty.get(person, UNKNOWN)
                yield _Waiting(person not in later, unsure, record.shard_id, person)


def _later_in_groups(answers: Iterable[dict[str, Any]], settled: Collection[Person]) -> set[Person]:
    """Return the persons in whose groups somebody was asked about, or is asked about before them.

    Who comes first is the clearest one, after whom the group is named, or another one that waits.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in answers:
        if row.get("reuse_group") is not None:
            groups[row["reuse_group"]].append(row)
    later: set[Person] = set()
    for name, rows in groups.items():
        waiting = [_person(row) for row in rows if _person(row) not in settled]
        if not any(row["status"] == "ok" and _person(row) in settled for row in rows):
            waiting.sort(key=lambda person: f"{person[0]}/{person[1]}" != name)
            waiting = waiting[1:]
        later.update(waiting)
    return later


def _person(row: dict[str, Any]) -> Person:
    return row["frame_key"], row["person_index"]


def _rows(store: ObjectStore, record: CommitRecord, kind: str, columns: list[str]) -> list[dict[str, Any]]:
    entry = record.object(kind)
    if entry is None:
        return []
    with store.open(entry.path) as stream:
        file = pq.ParquetFile(stream)
        table: pa.Table = file.read([name for name in columns if name in file.schema_arrow.names])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
