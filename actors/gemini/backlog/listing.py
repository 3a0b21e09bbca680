"""Gemini's backlog: which committed shards have persons without an outcome that stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.gemini.settings import ANNOTATOR, ResolvedGemini
from actors.records import SETTLED, Outcome
from actors.storage.commit_record import CommitRecord
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records


@dataclass(frozen=True, slots=True)
class WaitingShard:
    """A shard of the backlog: `persons` is how many of it have no outcome that stands."""

    shard_id: str
    persons: int


def waiting_of(record: CommitRecord, fingerprint: str, keep: Sequence[Outcome] = SETTLED) -> int:
    """How many persons of a shard Gemini is still to be asked about.

    Args:
        record: Of the shard.
        fingerprint: Of the way of asking; answers to another question don't count.
        keep: Outcomes that stand.
    """
    if record.state != "done":
        return 0
    if record.fingerprints.get(ANNOTATOR) != fingerprint:
        return record.counts.kept
    outcomes = record.annotators.get(ANNOTATOR, {})
    return sum(count for outcome, count in outcomes.items() if outcome not in keep)


def read_backlog(
    store: ObjectStore, resolved: ResolvedGemini, keep: Sequence[Outcome] = SETTLED
) -> list[WaitingShard]:
    """Shards with waiting persons, the one committed first before the others."""
    found = []
    for record, _ in read_records(store):
        persons = waiting_of(record, resolved.fingerprint, keep)
        if persons:
            found.append((record.committed_at, WaitingShard(record.shard_id, persons)))
    return [shard for _, shard in sorted(found, key=lambda entry: (entry[0], entry[1].shard_id))]
