"""Answers that are paid for but not committed yet, because a run was killed or is still going on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from actors.gemini.answer_journal import find_paid
from actors.gemini.protocol import Person
from actors.gemini.question import Question
from actors.gemini.settings import ANNOTATOR
from actors.storage import layout
from actors.storage.commit_record import CommitRecord, read_record
from actors.storage.flat_listing import list_flat, names_in
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class Uncommitted:
    """Number of persons with an answer that is not committed yet, and the cost of their answers."""

    persons: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Uncommitted) -> Uncommitted:
        return Uncommitted(self.persons + other.persons, self.cost_usd + other.cost_usd)


def read_uncommitted(store: ObjectStore, question: Question, model: str) -> Uncommitted:
    """Find the answers to a question that the next run commits without asking again.

    They belong to the shards that have answers in the journal, or that a run has claimed: a run that sends
    many requests files its answers in the index before it commits their shards.

    Raises:
        OutputError: An object is not a journal of answers.
        OSError: The store can't be read.
    """
    in_progress = {layout.shard_of_journal(info.path) for info in list_flat(store, layout.JOURNAL)}
    in_progress |= {name.removesuffix(".json") for name in names_in(store, layout.CLAIMS)}
    shard_ids = sorted(shard_id for shard_id in in_progress if shard_id is not None)
    return sum(
        map_ahead(lambda shard_id: _of_shard(store, shard_id, question, model), shard_ids), Uncommitted()
    )


def _of_shard(store: ObjectStore, shard_id: str, question: Question, model: str) -> Uncommitted:
    found = read_record(store, shard_id)
    if found is None or found[0].state != "done":
        return Uncommitted()
    try:
        waiting = list(_waiting(store, found[0], question))
    except FileNotFoundError:  # A run has replaced the record.
        return Uncommitted()
    answers = find_paid(store, shard_id, question, model, set(waiting))
    persons = sum(digest in answers for digest in waiting)
    return Uncommitted(persons, sum(entry.cost_usd for entry in answers.values()))


def _waiting(store: ObjectStore, record: CommitRecord, question: Question) -> Iterator[str]:
    """Yield the digest of the crop of each person without an accepted answer."""
    persons, answers = record.object("persons"), record.object(f"annotations/{ANNOTATOR}")
    if persons is None:
        return
    answered: set[Person] = set()
    if answers is not None and question.is_asked_by(record.fingerprints.get(ANNOTATOR)):
        rows = _read(store, answers.path, ["frame_key", "person_index", "status", "model"])
        answered = {
            (row["frame_key"], row["person_index"])
            for row in rows
            if row["status"] != "pending" and question.accepts(row["model"])
        }
    for row in _read(store, persons.path, ["frame_key", "person_index", "kept", "crop_sha256"]):
        # The tables of an earlier version have no digests, so their answers are not counted.
        digest = row.get("crop_sha256")
        if row["kept"] and digest and (row["frame_key"], row["person_index"]) not in answered:
            yield digest


def _read(store: ObjectStore, path: str, columns: list[str]) -> list[dict[str, Any]]:
    with store.open(path) as stream, pq.ParquetFile(stream) as file:
        known = [name for name in columns if name in file.schema_arrow.names]
        rows: list[dict[str, Any]] = file.read(known, use_threads=False).to_pylist()
    return rows
