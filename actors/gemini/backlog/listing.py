"""List the shards of Gemini's backlog: the committed shards in which persons still wait for an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from actors.fingerprint import question_of
from actors.gemini.backlog.denied import NOBODY, Denied, with_denied
from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.question import Question
from actors.gemini.settings import ANNOTATOR, ResolvedGemini
from actors.records import SETTLED, Outcome
from actors.storage.commit_record import CommitRecord
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records

WaitsBecause = Literal["missing", "retry", "model", "camera", "settings"]
"""Why a person waits for an answer from Gemini.

missing   it was never asked about
retry     the outcome was such that it is asked about again
model     its answer is from another model, and answers of other models are to be asked for again
camera    it was not sent because its camera was not permitted, and now it is
settings  its answer was given to another prompt or schema
"""


@dataclass(frozen=True, slots=True)
class WaitingShard:
    """A shard of the backlog. `causes` has the number of persons that wait for each reason."""

    shard_id: str
    causes: Mapping[WaitsBecause, int]

    @property
    def persons(self) -> int:
        """Number of persons that still wait for an answer."""
        return sum(self.causes.values())


def outcomes_by_model(record: CommitRecord, question: Question) -> dict[str, dict[str, int]]:
    """Return the number of persons of a shard by model and outcome.

    The model is empty for the answers of an earlier version to another question, which didn't record it.
    """
    if ANNOTATOR in record.models or ANNOTATOR not in record.annotators:
        return dict(record.models.get(ANNOTATOR, {}))
    model = question.earlier.get(question_of(record.fingerprints.get(ANNOTATOR, "")), "")
    return {model: record.annotators[ANNOTATOR]}


def waiting_of(
    record: CommitRecord,
    question: Question,
    keep: Sequence[Outcome] = SETTLED,
    denied: Denied = NOBODY,
) -> Counter[WaitsBecause]:
    """Return how many persons of a shard still wait for an answer from Gemini, by the reason.

    Args:
        record: Commit record of the shard.
        question: The question of this run, and the models whose answers to it are accepted.
        keep: Outcomes that are kept; persons with any other outcome are asked about again.
        denied: The persons that were not sent because of their camera.
    """
    found: Counter[WaitsBecause] = Counter()
    if record.state != "done":
        return found
    found["camera"] = denied.permitted
    outcomes = Counter(record.annotators.get(ANNOTATOR, {}))
    # Earlier versions counted persons that were not sent as `blocked`.
    outcomes["blocked"] -= denied.persons - outcomes.pop("denied", 0)
    if not question.is_asked_by(record.fingerprints.get(ANNOTATOR)):
        found["settings"] = sum(n for outcome, n in outcomes.items() if outcome != "pending")
        found["missing"] = record.counts.kept - found["settings"] - denied.persons
        return +found
    if not question.shares_as(record.fingerprints.get(ANNOTATOR)):
        found["settings"] = outcomes.pop("inherited", 0)
    if question.only_model is not None:
        pending = outcomes.pop("pending", 0)
        of_model = outcomes_by_model(record, question).get(question.only_model, {})
        accepted = outcomes & Counter(of_model)
        found["model"] = outcomes.total() - accepted.total()
        outcomes = accepted | Counter({"pending": pending})
    for outcome, count in outcomes.items():
        if outcome not in keep:
            found["missing" if outcome == "pending" else "retry"] += count
    return +found


class WaitingShards:
    """Collects the shards with waiting persons, from all commit records.

    Args:
        question: The question of this run.
        keep: Outcomes that are kept.
    """

    def __init__(self, question: Question, keep: Sequence[Outcome] = SETTLED) -> None:
        self._question = question
        self._keep = keep
        self._found: list[tuple[str, WaitingShard]] = []

    def add(self, record: CommitRecord, denied: Denied) -> None:
        """Add a shard, if anybody waits there."""
        causes = waiting_of(record, self._question, self._keep, denied)
        if causes:
            self._found.append((record.committed_at, WaitingShard(record.shard_id, causes)))

    def in_order(self) -> list[WaitingShard]:
        """Return the shards in the order in which they were committed."""
        return [shard for _, shard in sorted(self._found, key=lambda entry: (entry[0], entry[1].shard_id))]


def read_backlog(
    store: ObjectStore, resolved: ResolvedGemini, cameras: GeminiCameras, keep: Sequence[Outcome] = SETTLED
) -> list[WaitingShard]:
    """Return the shards with waiting persons, in the order in which they were committed.

    Args:
        store: The output.
        resolved: Model and prompt.
        cameras: Cameras whose crops may be sent.
        keep: Outcomes that are kept.
    """
    waiting = WaitingShards(resolved.question, keep)
    for record, denied in with_denied(store, (record for record, _ in read_records(store)), cameras):
        waiting.add(record, denied)
    return waiting.in_order()
