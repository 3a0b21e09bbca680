"""The persons of the newest consolidated version, in memory, with what people have decided since."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from actors.attribute import AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.consensus import Consensus
from actors.corrections.decision import MISSED, Box, Decision
from actors.corrections.final_values import (
    PersonDecisions,
    decisions_by_row,
    final_columns,
    final_fields,
)
from actors.corrections.matching import as_box, find_persons
from actors.errors import ConfigError
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.snapshot_table import SnapshotTable
from jobs.exchange.computed_columns import final_attributes, note_combinations, value_shares
from jobs.exchange.person_queries import KEPT, PersonQueries, create_rule_table
from jobs.serving.dropped_persons import dropped_persons
from jobs.serving.local_copies import local_files

_MEMORY_LIMIT = "600MB"
"""Memory of DuckDB, beyond which it goes on on the disk. A million persons take about 300 MB."""
_REMEDY = "run shopframe consolidate"
_KEY = ("shard_id", "frame_key", "person_index")


class PersonTable:
    """The persons by id. An id is a position in the order of the consolidated rows.

    Methods block, and may be called from several threads. Changes wait for each other.

    Args:
        store: The output.
        schema: The attributes of the last run, with its rules.
        consensus: How final values are weighed, as in the last consolidation.
        folder: Folder on this machine for what doesn't fit into memory, and for copies of remote files.

    Raises:
        ConfigError: The output has no consolidated persons.
        StoreError: They can't be read.
    """

    def __init__(
        self, store: ObjectStore, schema: AttributeSchema, consensus: Consensus, folder: Path
    ) -> None:
        self._store = store
        self._consensus = consensus
        self._lock = threading.Lock()
        paths = SnapshotTable(store, layout.CONSOLIDATED).paths()
        if not paths:
            raise ConfigError(f"--output {store.uri}: it has no consolidated persons; {_REMEDY}")
        self.version = tuple(paths)
        """The files of the version."""
        files = [str(path) for path in local_files(store, paths, folder / "consolidated")]
        self._database = duckdb.connect(
            config={"memory_limit": _MEMORY_LIMIT, "temp_directory": str(folder / "spilled")}
        )
        self._database.execute("SET GLOBAL TimeZone = 'UTC'")
        source = self._database.read_parquet(files)
        source.create_view("source")
        self.schema = final_attributes(schema, source.columns)
        if not len(self.schema):
            raise ConfigError(f"--output {store.uri}: consolidated/ has no final values; {_REMEDY}")
        self._queries = PersonQueries(self.schema, source.columns)
        self.annotators = self._queries.annotators
        self._columns = source.columns
        self._unsaved: set[int] = set()
        self._has_dropped = False
        self._load()
        count, digest = self.query(
            "SELECT count(*), bit_xor(hash(id, shard_id, frame_key, person_index)) FROM persons"
        )[0]
        self.name = f"{count}-{digest}"
        """Tables of one name have the same persons with the same ids, within this process."""
        self.is_outdated = False
        """Whether its files were found to be gone, so that it lacks what was decided last."""

    def close(self) -> None:
        """Free the memory."""
        self._database.close()

    @property
    def unsaved(self) -> int:
        """Number of persons whose consolidated row lacks something that was decided since."""
        return len(self._unsaved)

    def decided(self) -> int:
        """Return the number of persons about whom people have decided something."""
        found: int = self.query("SELECT count(*) FROM persons WHERE decided")[0][0]
        return found

    def query(self, text: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._database.cursor() as cursor:
            found: list[tuple[Any, ...]] = cursor.execute(text, list(parameters)).fetchall()
            return found

    def ids(self, text: str, parameters: Sequence[object] = ()) -> Any:
        """Return the only column of a query as a numpy array."""
        with self._database.cursor() as cursor:
            columns = cursor.execute(text, list(parameters)).fetchnumpy()
            return next(iter(columns.values()))

    def rows(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return the persons with these ids, in this order. Unknown ids are left out."""
        with self._database.cursor() as cursor:
            cursor.execute("SELECT * FROM persons WHERE id IN (SELECT unnest(?::INTEGER[]))", [list(ids)])
            names = [column[0] for column in cursor.description or ()]
            found = {row[0]: dict(zip(names, row, strict=True)) for row in cursor.fetchall()}
        return [found[number] for number in ids if number in found]

    def in_frame(self, shard_id: str, frame_key: str) -> list[dict[str, Any]]:
        """Return the persons of a frame, with ids."""
        found = self.query(
            "SELECT id FROM persons WHERE shard_id = ? AND frame_key = ? ORDER BY person_index",
            [shard_id, frame_key],
        )
        return self.rows([row[0] for row in found])

    def answers(self, person: Mapping[str, Any]) -> dict[str, Any]:
        """Return the consolidated row of a person, without the time, with the answers of all annotators."""
        with self._database.cursor() as cursor:
            cursor.execute(
                "SELECT * EXCLUDE (captured_at) FROM source "
                "WHERE shard_id = ? AND frame_key = ? AND person_index = ?",
                [person[name] for name in _KEY],
            )
            names = [column[0] for column in cursor.description or ()]
            row = cursor.fetchone()
        return dict(zip(names, row, strict=True)) if row is not None else {}

    def apply(self, decisions: Mapping[str, Sequence[Decision]]) -> None:
        """Give persons their final values by all decisions about their shards, as a consolidation would.

        Args:
            decisions: All decisions about some shards, by shard.
        """
        with self._lock:
            self._apply(decisions)

    def find(self, decisions: Iterable[Decision]) -> dict[str, int]:
        """Return the id of the person that each decision is about, by decision id. Lost ones are left out."""
        by_shard: defaultdict[str, list[Decision]] = defaultdict(list)
        for decision in decisions:
            if decision.detection != MISSED:
                by_shard[decision.shard_id].append(decision)
        boxes: defaultdict[str, defaultdict[str, list[Box]]] = defaultdict(lambda: defaultdict(list))
        ids: dict[tuple[str, str, int], int] = {}
        for number, shard_id, frame_key, bbox in self.query(
            "SELECT id, shard_id, frame_key, bbox FROM persons "
            f"WHERE shard_id IN (SELECT unnest(?)) AND verdict = '{KEPT}' ORDER BY id",
            [sorted(by_shard)],
        ):
            in_frame = boxes[shard_id][frame_key]
            ids[shard_id, frame_key, len(in_frame)] = number
            in_frame.append(as_box(bbox))
        return {
            name: ids[shard_id, *place]
            for shard_id, of_shard in by_shard.items()
            for name, place in find_persons(of_shard, boxes[shard_id]).items()
            if place is not None
        }

    def load_dropped(self) -> None:
        """Add the persons that the region of interest has dropped, which are in no consolidated table."""
        with self._lock:
            if self._has_dropped:
                return
            (first,) = self.query("SELECT coalesce(max(id), -1) + 1 FROM persons")[0]
            for table in dropped_persons(self._store):
                numbered = table.append_column(
                    "id", pa.array(range(first, first + table.num_rows), pa.int32())
                )
                first += table.num_rows
                with self._database.cursor() as cursor:
                    cursor.register("dropped", numbered)
                    cursor.execute("INSERT INTO persons BY NAME SELECT * FROM dropped")
                    cursor.unregister("dropped")
            self._has_dropped = True

    # --- making the table ---

    def _load(self) -> None:
        self._database.execute(self._queries.create_source_type())
        for number, rule in enumerate(self.schema.rules):
            self._database.execute(create_rule_table(number, rule, self.schema))
        note_combinations(self._database, self.schema, "source")
        self._shares = value_shares(self._database, self._queries, "source")
        # Files and their rows are in the order of shards, frames and persons.
        numbered = "(SELECT *, (row_number() OVER () - 1)::INTEGER AS id FROM source)"
        self._database.execute(f"CREATE TABLE persons AS {self._queries.rows(numbered, 'id', self._shares)}")

    # --- what was decided since ---

    def _shard_rows(self, shard_ids: Collection[str]) -> pa.Table:
        """Return consolidated rows of some shards, with ids, shard by shard."""
        with self._database.cursor() as cursor:
            return cursor.sql(
                "WITH numbers AS (SELECT id, shard_id, frame_key, person_index FROM persons "
                f"WHERE list_contains($1, shard_id) AND verdict = '{KEPT}') "
                "SELECT numbers.id, s.* FROM source AS s JOIN numbers "
                "USING (shard_id, frame_key, person_index) "
                "WHERE s.shard_id BETWEEN list_min($1) AND list_max($1) ORDER BY numbers.id",
                params=[sorted(shard_ids)],
            ).to_arrow_table()

    def _apply(self, decisions: Mapping[str, Sequence[Decision]]) -> None:
        rows = self._shard_rows(decisions)
        if not rows.num_rows:
            return
        decided = _decided(rows, decisions)
        ids = rows["id"].to_pylist()
        final = final_columns(
            self._answer_columns(rows), decided, self.schema, self._consensus, rows.num_rows
        )
        fresh = rows
        for field in final_fields(self.schema):
            if field.name in fresh.column_names:
                position = fresh.schema.get_field_index(field.name)
                fresh = fresh.set_column(position, field, final[field.name])
        changed = _different_rows(rows, fresh, [field.name for field in final_fields(self.schema)])
        now = {ids[row] for row in changed}
        # Rows that differed before and no longer do go back to their consolidated values.
        again = {row for row, number in enumerate(ids) if number in self._unsaved}
        self._replace(fresh.take(pa.array(sorted(changed | again), pa.int64())))
        self._unsaved = (self._unsaved - set(ids)) | now

    def _replace(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        with self._database.cursor() as cursor:
            cursor.register("fresh", rows)
            note_combinations(cursor, self.schema, "fresh")
            cursor.begin()
            cursor.execute("DELETE FROM persons WHERE id IN (SELECT id FROM fresh)")
            cursor.execute(f"INSERT INTO persons {self._queries.rows('fresh', 'id', self._shares)}")
            cursor.commit()
            cursor.unregister("fresh")

    def _answer_columns(self, rows: pa.Table) -> dict[str, dict[str, pa.ChunkedArray]]:
        return {
            annotator: {
                name.removeprefix(f"{annotator}_"): rows[name]
                for name in self._columns
                if name.startswith(f"{annotator}_")
            }
            for annotator in self.annotators
        }


def _decided(rows: pa.Table, decisions: Mapping[str, Sequence[Decision]]) -> PersonDecisions:
    """Return what was decided about rows of several shards."""
    values: defaultdict[str, dict[int, AttributeValue]] = defaultdict(dict)
    not_persons: set[int] = set()
    boxes: dict[int, Box] = {}
    for shard_id, start, stop in _runs(rows["shard_id"].to_pylist()):
        one = decisions_by_row(decisions[shard_id], rows.slice(start, stop - start))
        for attribute, of in one.values.items():
            values[attribute].update({start + row: value for row, value in of.items()})
        not_persons |= {start + row for row in one.not_persons}
        boxes |= {start + row: box for row, box in one.boxes.items()}
    return PersonDecisions(dict(values), frozenset(not_persons), boxes)


def _runs(shard_ids: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yield each shard with its first row and the row after its last one."""
    start = 0
    for row in range(1, len(shard_ids) + 1):
        if row == len(shard_ids) or shard_ids[row] != shard_ids[start]:
            yield shard_ids[start], start, row
            start = row


def _different_rows(before: pa.Table, after: pa.Table, names: Sequence[str]) -> set[int]:
    different: set[int] = set()
    for name in names:
        if name in before.column_names:
            pairs = zip(before[name].to_pylist(), after[name].to_pylist(), strict=True)
            different |= {row for row, (one, other) in enumerate(pairs) if one != other}
    return different
