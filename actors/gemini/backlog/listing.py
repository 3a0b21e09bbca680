"""List the shards of Gemini's backlog: the committed shards in which persons still wait for an answer."""

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
    """A shard of the backlog. `persons` is the number of its persons that still wait for an answer."""

    shard_id: str
    persons: int


def waiting_of(record: CommitRecord, fingerprint: str, keep: Sequence[Outcome] = SETTLED) -> int:
    """Return the number of persons of a shard that still wait for an answer from Gemini.

    Args:
        record: Commit record of the shard.
        fingerprint: Gemini's fingerprint in this run. Answers with another fingerprint don't count.
        keep: Outcomes that are kept; persons with any other outcome are asked about again.
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
    """Return the shards with waiting persons, in the order in which they were committed."""
    found = []
    for record, _ in read_records(store):
        persons = waiting_of(record, resolved.fingerprint, keep)
        if persons:
            found.append((record.committed_at, WaitingShard(record.shard_id, persons)))
    return [shard for _, shard in sorted(found, key=lambda entry: (entry[0], entry[1].shard_id))]
