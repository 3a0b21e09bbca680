"""List the decisions that find no person in what is committed now."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow.parquet as pq

from actors.corrections.decision import Decision
from actors.corrections.decision_log import read_decisions
from actors.corrections.final_values import decisions_by_row
from actors.storage.commit_record import read_record
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore


def lost_decisions(store: ObjectStore) -> Iterator[tuple[Decision, str]]:
    """Yield each decision in force that finds no person, and why.

    Raises:
        OSError: The output can't be read.
    """

    def lost(item: tuple[str, list[Decision]]) -> list[tuple[Decision, str]]:
        shard_id, decisions = item
        found = read_record(store, shard_id)
        persons = None if found is None else found[0].object("persons")
        if persons is None:
            return [(decision, "its shard is not committed") for decision in decisions]
        columns = ["frame_key", "bbox", "kept"]
        table = pq.read_table(io.BytesIO(store.read(persons.path)), columns=columns)
        by_row = decisions_by_row(decisions, table.filter(table["kept"]))
        return [(decision, "nobody is there") for decision in by_row.lost]

    for some in map_ahead(lost, read_decisions(store).items()):
        yield from some
