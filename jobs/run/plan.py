"""The plan of a run: the shards of the input, less what is already committed."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

from actors.fingerprint import annotators_in, fits
from actors.read.frame_range import frames_of
from actors.records import ANSWERED, RETRYABLE, Shard, ShardFormat
from actors.shard_block import ShardTask, Work
from actors.storage import layout
from actors.storage.commit_record import CommitRecord

Scope = Literal["missing", "failed", "annotator", "force"]
"""Which shards a run does again.

missing    every shard that isn't done or is out of date
failed     only the failed shards
annotator  only the persons that one annotator has not answered with `ok`
force      every shard
"""

BACKLOG_ANNOTATORS = ("gemini",)
"""Annotators that take persons from a backlog, beside the stages, instead of being a stage themselves."""


Cause = Literal["new", "size", "etag", "failed", "settings", "missing", "retry", "documents", "forced"]
"""Why a shard has something to do.

new        it was never committed
size       its input has another size
etag       its input has the same size, but may have other content
failed     it was recorded as failed
settings   settings or models of a stage have changed
missing    an annotator was never asked about it
retry      an annotator's outcomes are to be asked for again
documents  its documents were not written completely
forced     the user asked for it
"""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a shard has something to do. Of several causes, it is the one that decides where the work begins.

    Attributes:
        cause: The cause.
        stage: The stage whose settings have changed, or the annotator whose answers are missing.
        persons: Number of committed persons that annotators are asked about again. Those of a shard that is
            detected again may be others.
    """

    cause: Cause
    stage: str | None = None
    persons: int = 0


class _Todo(NamedTuple):
    work: Work
    reason: Reason
    retry_outcomes: tuple[str, ...] | None = None


_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Committed:
    """The part of a commit record that planning needs, a few hundred bytes per shard."""

    attempt_id: str
    state: str
    attempt: int
    input_uri: str
    input_etag: str
    input_key: str
    input_format: ShardFormat
    fingerprints: Mapping[str, str]
    annotators: Mapping[str, Mapping[str, int]]
    kept: int = 0
    input_bytes: int = 0
    has_documents_due: bool = False
    first_frame: int = 0
    stop_frame: int | None = None

    @classmethod
    def of(cls, record: CommitRecord) -> Committed:
        """Return the part of a commit record that planning needs."""
        return cls(
            attempt_id=record.attempt_id,
            state=record.state,
            attempt=record.attempt,
            input_uri=record.input.uri,
            input_etag=record.input.etag,
            input_key=_input_key(
                record.input.uri,
                record.input.start,
                record.input.stop,
                base64.b64decode(record.input.members),
            ),
            input_format=record.input.format,
            fingerprints=_shared(record.fingerprints),
            annotators={name: _shared(outcomes) for name, outcomes in record.annotators.items()},
            kept=record.counts.kept,
            input_bytes=record.input.size_bytes,
            has_documents_due=record.documents == "due",
            first_frame=record.input.first_frame,
            stop_frame=record.input.stop_frame,
        )

    def fits(self, annotator: str, fingerprint: str) -> bool:
        """Return whether the answers of a local annotator are good for a run with this fingerprint."""
        inherited = self.annotators.get(annotator, {}).get("inherited", 0)
        return fits(self.fingerprints.get(annotator), fingerprint, inherited)


def _shared(content: Mapping[str, _Value]) -> Mapping[str, _Value]:
    """Return a mapping that equal contents share, because most of the shards have the same fingerprints."""
    return _shared_mapping(tuple(content.items()))


@lru_cache(maxsize=1024)
def _shared_mapping(items: tuple[tuple[str, Any], ...]) -> Mapping[str, Any]:
    return dict(items)


def _input_key(uri: str, start: int, stop: int | None, members: bytes) -> str:
    """Return the identity of a part of the input, whatever its shard is called and whatever it contains."""
    return hashlib.sha256(f"{uri} {start} {stop} ".encode() + members).hexdigest()[:32]


@dataclass(slots=True)
class Plan:
    """The work of one run.

    Attributes:
        tasks: One task per shard that has something to do, in the order of the input.
        reasons: Why each of these shards has something to do, by its id.
        shards: Number of shards in the input. The parts of one that was cut by its frames count as one.
        skipped: Number of shards that have nothing to do, with each part counted.
        superseded: Committed shards whose input is now planned as other shards, because the size of parts or
            groups was changed, and the ids of those other shards. Both would count the input twice.
        foreign: Shards whose names are taken by committed shards with other content from another input, and
            the URI of that input. Replacing those would lose their results.
        colliding: Ids that two shards of this plan would have.
    """

    tasks: list[ShardTask] = field(default_factory=list)
    reasons: dict[str, Reason] = field(default_factory=dict)
    shards: int = 0
    skipped: int = 0
    superseded: dict[str, tuple[str, ...]] = field(default_factory=dict)
    foreign: list[tuple[Shard, str]] = field(default_factory=list)
    colliding: list[str] = field(default_factory=list)


def make_plan(
    shards: Iterable[Shard],
    committed: Mapping[str, Committed],
    fingerprints: Mapping[str, str],
    scope: Scope = "missing",
    annotator: str | None = None,
    previews: int = 0,
    is_partial: bool = False,
) -> Plan:
    """Compare the input with the commit records.

    Args:
        shards: The shards of the input.
        committed: Maps a shard id to its commit record.
        fingerprints: Maps a stage (detect, person_json, and every enabled annotator) to the hash of
            everything that its result depends on.
        scope: Which shards to do again.
        annotator: The annotator to ask again, with scope "annotator".
        previews: Approximate number of frames to draw, spread over the shards to be detected.
        is_partial: Whether the input may name only some images of a folder. Groups of its others stay.
    """
    plan = Plan()
    planned: defaultdict[str, list[str]] = defaultdict(list)
    names = {record.input_key: name for name, record in committed.items() if not record.first_frame}
    starts = _starts(committed)
    for listed in shards:
        plan.shards += 1
        whole = _under_committed_name(listed, committed, names)
        for shard in _parts_of(whole, committed, starts.get(whole.shard_id, ())):
            planned[shard.uri].append(shard.shard_id)
            record = committed.get(shard.shard_id)
            if record is not None and record.input_uri != shard.uri and record.input_etag != shard.etag:
                plan.foreign.append((shard, record.input_uri))
            todo = _what_to_do(shard, record, fingerprints, scope, annotator)
            if todo is None:
                plan.skipped += 1
                continue
            plan.reasons[shard.shard_id] = todo.reason
            plan.tasks.append(
                ShardTask(
                    shard=shard,
                    work=todo.work,
                    replaces=record.attempt_id if record else None,
                    attempt=record.attempt + 1 if record else 1,
                    retry_outcomes=todo.retry_outcomes,
                    recall=scope != "force",
                )
            )
    if scope in ("missing", "force"):
        plan.superseded = _superseded(committed, planned, is_partial)
    ids = Counter(shard_id for shard_ids in planned.values() for shard_id in shard_ids)
    plan.colliding = sorted(shard_id for shard_id, count in ids.items() if count > 1)
    plan.tasks = _spread_previews(plan.tasks, previews)
    return plan


def _starts(committed: Mapping[str, Committed]) -> Mapping[str, Sequence[int]]:
    """Return the first frames of the committed parts of shards that were cut, sorted, by the shards' ids."""
    starts: defaultdict[str, list[int]] = defaultdict(list)
    for shard_id, record in committed.items():
        if record.first_frame:
            starts[layout.cut_id(shard_id)].append(record.first_frame)
    return {shard_id: sorted(found) for shard_id, found in starts.items()}


def _parts_of(shard: Shard, committed: Mapping[str, Committed], starts: Sequence[int]) -> Iterator[Shard]:
    """Yield the parts of a shard that its commit records have cut it into, or the shard alone.

    A part always keeps its frames, or is cut further: if it is detected again with settings that give larger
    crops, its rest becomes a part between it and the next one. No two parts ever have a frame in common,
    whichever of them are committed. Where there is no record, the part up to the next one is still to do.

    Args:
        shard: The whole shard.
        committed: Maps a shard id to its commit record.
        starts: First frames of the parts that have a record, sorted, without the first part.
    """
    first: int | None = 0
    while first is not None:
        record = committed.get(layout.rest_id(shard.shard_id, first))
        if record is not None:
            stop = record.stop_frame
        else:
            stop = next((start for start in starts if start > first), None)
        yield frames_of(shard, first, stop)
        first = stop


def _under_committed_name(
    shard: Shard, committed: Mapping[str, Committed], names: Mapping[str, str]
) -> Shard:
    """Return the shard under the id that its part of the input was committed with.

    The listed id depends on where the input begins, which is another place for a sub-folder.
    """
    key = _input_key(shard.uri, shard.start, shard.stop, shard.members)
    record = committed.get(shard.shard_id)
    if record is not None and record.input_key == key:
        return shard
    return replace(shard, shard_id=names.get(key, shard.shard_id))


def _superseded(
    committed: Mapping[str, Committed], planned: Mapping[str, Sequence[str]], is_partial: bool
) -> dict[str, tuple[str, ...]]:
    current = {shard_id for shard_ids in planned.values() for shard_id in shard_ids}
    return {
        shard_id: tuple(planned[record.input_uri])
        for shard_id, record in committed.items()
        if shard_id not in current
        and record.input_uri in planned
        and not (is_partial and record.input_format == "images")
    }


def _what_to_do(
    shard: Shard,
    record: Committed | None,
    fingerprints: Mapping[str, str],
    scope: Scope,
    annotator: str | None,
) -> _Todo | None:
    failed = record is not None and record.state == "failed"
    if scope == "failed":
        return _Todo("detect", Reason("failed")) if failed else None
    if scope == "annotator":
        return _owed_by(record, str(annotator), fingerprints)
    if record is None:
        return _Todo("detect", Reason("new"))
    if failed:
        return _Todo("detect", Reason("failed"))
    if scope == "force":
        return _Todo("detect", Reason("forced", persons=record.kept))
    if record.input_etag != shard.etag:
        cause: Cause = "size" if record.input_bytes != shard.size_bytes else "etag"
        return _Todo("detect", Reason(cause, persons=record.kept))
    if record.fingerprints.get("detect") != fingerprints["detect"]:
        return _Todo("detect", Reason("settings", "detect", record.kept))
    return _answers_to_ask_for(record, fingerprints) or _documents_to_write(record, fingerprints)


def _answers_to_ask_for(record: Committed, fingerprints: Mapping[str, str]) -> _Todo | None:
    annotators = [name for name in annotators_in(fingerprints) if name not in BACKLOG_ANNOTATORS]
    for name in annotators:
        if not record.fits(name, fingerprints[name]):
            cause: Cause = "settings" if name in record.fingerprints else "missing"
            return _Todo("annotate", Reason(cause, name, record.kept))
    for name in annotators:
        persons = sum(record.annotators.get(name, {}).get(outcome, 0) for outcome in RETRYABLE)
        if persons:
            return _Todo("annotate", Reason("retry", name, persons), RETRYABLE)
    return None


def _documents_to_write(record: Committed, fingerprints: Mapping[str, str]) -> _Todo | None:
    if record.fingerprints.get("person_json") != fingerprints["person_json"]:
        return _Todo("write", Reason("settings", "person_json"))
    return _Todo("write", Reason("documents")) if record.has_documents_due else None


def _owed_by(record: Committed | None, annotator: str, fingerprints: Mapping[str, str]) -> _Todo | None:
    if record is None or record.state != "done" or annotator in BACKLOG_ANNOTATORS:
        return None
    outcomes = record.annotators.get(annotator, {})
    owed = {outcome: n for outcome, n in outcomes.items() if n and outcome not in ANSWERED}
    if not owed:
        return None
    # The answers of one shard must never mix two models or prompts.
    if not record.fits(annotator, fingerprints[annotator]):
        return _Todo("annotate", Reason("settings", annotator, record.kept))
    return _Todo("annotate", Reason("retry", annotator, sum(owed.values())), tuple(owed))


def _spread_previews(tasks: list[ShardTask], previews: int) -> list[ShardTask]:
    """Distribute the previews over evenly spaced shards."""
    detecting = [i for i, task in enumerate(tasks) if task.work == "detect"]
    if not detecting or not previews:
        return tasks
    chosen = detecting[:: max(1, len(detecting) // previews)][:previews]
    share, rest = divmod(previews, len(chosen))
    for position, index in enumerate(chosen):
        tasks[index] = replace(tasks[index], previews=share + (position < rest))
    return tasks
