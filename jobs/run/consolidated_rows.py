"""The consolidated rows of one shard, and the columns that they have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.attribute import DISTRIBUTION_PREFIX
from actors.attributes import AttributeSchema
from actors.corrections.consensus import Consensus
from actors.corrections.decision import Decision
from actors.corrections.final_values import decisions_by_row, final_columns, final_fields
from actors.records import FRAMES_SCHEMA, PERSONS_SCHEMA
from actors.storage.commit_record import CommitRecord, CommittedObject, read_record
from actors.storage.object_store import ObjectStore
from actors.storage.tables import annotations_schema

_KEYS = ["shard_id", "frame_key", "person_index"]
_FRAME_COLUMNS = ["camera", "captured_at", "width", "height"]
_PERSON_COLUMNS = ["bbox", "score"]
_ANNOTATIONS = "annotations/"
_Content = TypeVar("_Content")
_WHOLE_BYTES = 1 << 20
"""Size up to which a table is read with one request. Reading some of its columns takes four or more."""
_REREADS = 5
"""How often a record that is replaced while its objects are read is read again."""


def _plain_type(data_type: pa.DataType) -> pa.DataType:
    """Return the type that Delta Lake has for an Arrow type: it has no dictionaries and no fixed sizes."""
    if pa.types.is_dictionary(data_type):
        return data_type.value_type
    if pa.types.is_fixed_size_list(data_type):
        return pa.list_(data_type.value_type)
    return data_type


def _is_consolidated(name: str) -> bool:
    """Return whether a column of an annotations table, other than its keys, is consolidated.

    Distributions take more space than everything else together, so they stay in the annotations tables.
    """
    return name not in _KEYS and not name.startswith(DISTRIBUTION_PREFIX)


def _plain_fields(schema: pa.Schema, names: list[str]) -> list[pa.Field]:
    return [pa.field(name, _plain_type(schema.field(name).type)) for name in names]


FRAME_COLUMNS = pa.schema(_plain_fields(FRAMES_SCHEMA, FRAMES_SCHEMA.names))
"""Columns of the consolidated frames: those of the frames tables."""


class AnswerColumns:
    """The columns of a set of annotations tables by annotator, with every type that a column has in one."""

    def __init__(self) -> None:
        self._types: dict[str, dict[str, set[str]]] = {}

    def add(self, annotator: str, columns: pa.Schema) -> None:
        """Add the columns of a table."""
        known = self._types.setdefault(annotator, {})
        for column in columns:
            if _is_consolidated(column.name):
                known.setdefault(column.name, set()).add(str(_plain_type(column.type)))

    def update(self, other: AnswerColumns) -> None:
        """Add the columns of other tables."""
        for annotator, columns in other._types.items():
            known = self._types.setdefault(annotator, {})
            for name, types in columns.items():
                known.setdefault(name, set()).update(types)

    def as_json(self) -> dict[str, dict[str, list[str]]]:
        """Return the annotators, their columns and types."""
        return {
            annotator: {name: sorted(types) for name, types in sorted(columns.items())}
            for annotator, columns in sorted(self._types.items())
        }

    @classmethod
    def from_json(cls, content: dict[str, dict[str, list[str]]]) -> Self:
        """Return what `as_json` was called on."""
        made = cls()
        for annotator, columns in content.items():
            made._types[annotator] = {name: set(types) for name, types in columns.items()}
        return made

    def person_columns(self, attributes: AttributeSchema) -> pa.Schema:
        """Return the columns of the consolidated persons: final values, and the union of those of all tables.

        An attribute that `attributes` has is of its type there. Another one is of the type that it has in the
        tables, or text if they disagree.
        """
        fields = _plain_fields(PERSONS_SCHEMA, _KEYS)
        fields += _plain_fields(FRAMES_SCHEMA, _FRAME_COLUMNS)
        fields += _plain_fields(PERSONS_SCHEMA, _PERSON_COLUMNS)
        fields += final_fields(attributes)
        for annotator in sorted(self._types):
            now = annotations_schema(attributes, annotator)
            columns = {f.name: _plain_type(f.type) for f in now if _is_consolidated(f.name)}
            for name, types in sorted(self._types[annotator].items()):
                if name not in columns:
                    only = next(iter(types)) if len(types) == 1 else "string"
                    columns[name] = pa.type_for_alias(only)
            fields += [pa.field(f"{annotator}_{name}", data_type) for name, data_type in columns.items()]
        return pa.schema(fields)


def answer_columns(store: ObjectStore, record: CommitRecord) -> AnswerColumns:
    """Return the columns of a shard's annotations tables, from the schemas that they were written with."""
    found = AnswerColumns()
    if record.state == "done":
        for annotator, path in _annotations(record):
            # These tables have no crops, so they are small, and a request for all of it is the only one.
            found.add(annotator, pq.read_schema(pa.BufferReader(store.read(path))))
    return found


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The consolidated rows of a shard.

    Attributes:
        rows: The rows.
        answers: The columns of the annotations tables that they come from.
        lost: Decisions about persons that the shard doesn't have.
    """

    rows: pa.Table
    answers: AnswerColumns = field(default_factory=AnswerColumns)
    lost: tuple[Decision, ...] = ()


@dataclass(frozen=True, slots=True)
class FinalValues:
    """What the final values follow from, beside the answers.

    Attributes:
        attributes: The attributes.
        consensus: How the sources of values are weighed.
        decisions: All decisions by shard.
    """

    attributes: AttributeSchema
    consensus: Consensus
    decisions: Mapping[str, Sequence[Decision]]

    def only(self, shard_ids: Iterable[str]) -> FinalValues:
        """Return what the final values of some shards follow from."""
        decided = {shard_id: self.decisions[shard_id] for shard_id in shard_ids if shard_id in self.decisions}
        return replace(self, decisions=decided)


def frame_rows(store: ObjectStore, record: CommitRecord) -> ShardRows:
    """Return the shard's frames, failed ones and those of failed shards included."""
    entry = record.object("frames")
    if entry is None:
        return ShardRows(FRAME_COLUMNS.empty_table())
    table = _read(store, entry.path, None)
    values = {name: table[name] for name in table.column_names}
    return ShardRows(_with_columns(values, table.num_rows, FRAME_COLUMNS))


def person_rows(
    store: ObjectStore, record: CommitRecord, columns: pa.Schema, final: FinalValues
) -> ShardRows:
    """Return the shard's kept persons with their frames, final values, and all answers side by side.

    A value is null where the shard's tables don't have the column. Where they have it with another type, the
    value becomes text if the column is text, and null otherwise.
    """
    frames, persons = record.object("frames"), record.object("persons")
    decisions = final.decisions.get(record.shard_id, ())
    if record.state != "done" or frames is None or persons is None:
        return ShardRows(columns.empty_table(), lost=tuple(decisions))
    frame_table = _read(store, frames.path, ["frame_key", *_FRAME_COLUMNS, "status"])
    frame_table = frame_table.filter(pc.equal(frame_table["status"], "ok"))
    kept = _read_without_crops(store, persons)
    kept = kept.filter(kept["kept"])
    values = {name: kept[name] for name in [*_KEYS, *_PERSON_COLUMNS]}
    at = pc.index_in(kept["frame_key"], value_set=frame_table["frame_key"].combine_chunks())
    values |= {name: frame_table[name].take(at) for name in _FRAME_COLUMNS}
    person_keys = _person_keys(kept)
    found = AnswerColumns()
    answers: dict[str, dict[str, pa.ChunkedArray]] = {}
    for annotator, path in _annotations(record):
        table = _read_answers(store, path)
        found.add(annotator, table.schema)
        keys = _person_keys(table)
        if not keys.equals(person_keys):
            table = table.take(pc.index_in(person_keys, value_set=keys.combine_chunks()))
        answers[annotator] = {name: table[name] for name in table.column_names if name not in _KEYS}
        values |= {f"{annotator}_{name}": column for name, column in answers[annotator].items()}
    decided = decisions_by_row(decisions, kept)
    values |= final_columns(answers, decided, final.attributes, final.consensus, kept.num_rows)
    return ShardRows(_with_columns(values, kept.num_rows, columns), found, decided.lost)


def read_current(
    store: ObjectStore, record: CommitRecord, read: Callable[[CommitRecord], _Content]
) -> tuple[CommitRecord, _Content] | None:
    """Read a record's objects, or those of the record that replaced it meanwhile.

    Returns:
        The record that was read last and what its objects contain; None if it was deleted meanwhile.

    Raises:
        FileNotFoundError: An object that the current record names is missing.
    """
    for _ in range(_REREADS):
        try:
            return record, read(record)
        except FileNotFoundError:
            found = read_record(store, record.shard_id)
            if found is None:
                return None
            if found[0].attempt_id == record.attempt_id:
                raise
            record = found[0]
    return record, read(record)


def _annotations(record: CommitRecord) -> Iterator[tuple[str, str]]:
    for entry in record.objects:
        if entry.kind.startswith(_ANNOTATIONS):
            yield entry.kind.removeprefix(_ANNOTATIONS), entry.path


def _read(store: ObjectStore, path: str, columns: list[str] | None) -> pa.Table:
    return _table_of(pa.BufferReader(store.read(path)), columns)


def _read_answers(store: ObjectStore, path: str) -> pa.Table:
    with pq.ParquetFile(pa.BufferReader(store.read(path))) as file:
        names = [name for name in file.schema_arrow.names if not name.startswith(DISTRIBUTION_PREFIX)]
        return file.read(names, use_threads=False)


def _read_without_crops(store: ObjectStore, persons: CommittedObject) -> pa.Table:
    columns = [*_KEYS, *_PERSON_COLUMNS, "kept"]
    if persons.size_bytes <= _WHOLE_BYTES:
        return _read(store, persons.path, columns)
    # The crops are most of the file, so only the other columns are read.
    with store.open(persons.path) as stream:
        return _table_of(stream, columns)


def _table_of(source: IO[bytes] | pa.BufferReader, columns: list[str] | None) -> pa.Table:
    # For tables this small, pq.read_table and threads cost more than the reading itself.
    with pq.ParquetFile(source) as file:
        return file.read(columns, use_threads=False)


def _person_keys(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["frame_key"], table["person_index"].cast(pa.string()), "/")


def _with_columns(values: dict[str, pa.ChunkedArray], rows: int, columns: pa.Schema) -> pa.Table:
    return pa.table(
        [_fitted(values[f.name], f.type) if f.name in values else pa.nulls(rows, f.type) for f in columns],
        schema=columns,
    )


def _fitted(values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    if values.type == wanted:
        return values
    if _plain_type(values.type) == wanted or pa.types.is_string(wanted):
        return values.cast(_plain_type(values.type)).cast(wanted)
    return pa.nulls(len(values), wanted)
