"""Check the tables of one shard against its commit record and against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.records import ANSWERED, FRAMES_SCHEMA, OUTCOMES, PERSONS_SCHEMA
from actors.storage.commit_record import CommitRecord
from actors.storage.tables import annotations_schema, attributes_of, form_of
from jobs.run.words import counted, first_of

_NO_ATTRIBUTES = AttributeSchema(SchemaSettings()).only(())
"""Assumed for tables of versions that didn't store their attributes."""

_CENT_FRACTION = 1e-6
"""Costs in US dollars are rounded to nine digits and may be added up in another order."""


def check_record(record: CommitRecord) -> Iterator[str]:
    """Yield what is wrong with the counts of a commit record, and what it doesn't name."""
    counts = record.counts
    ok, failed, dropped = counts.frames_ok, counts.frames_failed, sum(counts.dropped.values())
    if counts.frames != ok + failed:
        yield f"counts {counted(counts.frames, 'frame')}, but {ok} ok + {failed} failed"
    if counts.detected != counts.kept + dropped:
        detected = counted(counts.detected, "detected person")
        yield f"counts {detected}, but {counts.kept} kept + {dropped} dropped"
    if record.state == "failed":
        return
    for name, outcomes in record.annotators.items():
        total = sum(outcomes.values())
        if total != counts.kept:
            yield f"counts {counted(counts.kept, 'kept person')}, but {counted(total, 'outcome')} of {name}"
    named = {entry.kind for entry in record.objects}
    wanted = {"frames", "persons", *(f"annotations/{name}" for name in record.annotators)}
    if wanted - named:
        yield f"names no object for {', '.join(sorted(wanted - named))}"
    uncounted = {kind for kind in named - wanted if kind.startswith("annotations/")}
    if uncounted:
        yield f"counts no outcomes for {', '.join(sorted(uncounted))}"


def check_table(kind: str, table: pa.Table, record: CommitRecord) -> Iterator[str]:
    """Yield what is wrong with one table of a shard.

    Args:
        kind: The kind of the table in the commit record: frames, persons or annotations/<annotator>.
        table: The table.
        record: The shard's commit record.
    """
    wrong = list(_wrong_columns(table, _wanted_fields(kind, table)))
    if wrong:
        yield f"has other columns than its schema: {first_of(wrong)}"
        return
    strangers = set(table["shard_id"].unique().to_pylist()) - {record.shard_id}
    if strangers:
        yield f"has rows of other shards: {first_of(sorted(map(str, strangers)))}"
    if kind == "frames":
        yield from _check_frames(table, record)
    elif kind == "persons":
        yield from _check_persons(table, record)
    else:
        yield from _check_annotations(table, record, kind.partition("/")[2])


def check_together(tables: Mapping[str, pa.Table]) -> Iterator[tuple[str, str]]:
    """Yield the kind of a table and how it disagrees with another one.

    Args:
        tables: The tables of one shard by kind. Each must have the columns of its schema.
    """
    frames, persons = tables.get("frames"), tables.get("persons")
    if persons is None:
        return
    keys = _keys(persons)
    if frames is not None:
        ok = frames.filter(pc.equal(frames["status"].cast(pa.string()), "ok"))
        expected = dict(zip(ok["frame_key"].to_pylist(), ok["detected"].to_pylist(), strict=True))
        found = Counter(key for key, _ in keys)
        differing = sorted(k for k in expected.keys() | found.keys() if expected.get(k, 0) != found[k])
        if differing:
            yield (
                "persons",
                f"has other numbers of persons than frames/ says, for frame {first_of(differing)}",
            )
    kept = Counter(_keys(persons.filter(persons["kept"])))
    for kind, table in tables.items():
        if kind.startswith("annotations/"):
            difference = (kept - Counter(_keys(table))) | (Counter(_keys(table)) - kept)
            if difference:
                named = [f"{frame}/{index}" for frame, index in sorted(difference)]
                yield kind, f"is not about the kept persons, once each: {first_of(named)}"


def _wanted_fields(kind: str, table: pa.Table) -> list[pa.Field]:
    if kind in ("frames", "persons"):
        return list(FRAMES_SCHEMA if kind == "frames" else PERSONS_SCHEMA)
    attributes = attributes_of(table, _NO_ATTRIBUTES)
    return list(annotations_schema(attributes, kind.partition("/")[2], form_of(table)))


def _wrong_columns(table: pa.Table, wanted: list[pa.Field]) -> Iterator[str]:
    for field in wanted:
        if field.name not in table.column_names:
            yield f"{field.name} is missing"
        elif _value_type(table.schema.field(field.name).type) != _value_type(field.type):
            yield f"{field.name} is {table.schema.field(field.name).type} instead of {field.type}"
        elif not field.nullable and table[field.name].null_count:
            yield f"{field.name} has nulls"


def _value_type(kind: pa.DataType) -> pa.DataType:
    # Parquet doesn't keep the index type of a dictionary.
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _check_frames(table: pa.Table, record: CommitRecord) -> Iterator[str]:
    counts = record.counts
    statuses = Counter(table["status"].to_pylist())
    found = (table.num_rows, statuses["ok"], statuses["error"])
    said = (counts.frames, counts.frames_ok, counts.frames_failed)
    if found != said:
        yield f"has {_of_frames(*found)}, but the commit record counts {_of_frames(*said)}"
    persons = (pc.sum(table["detected"]).as_py() or 0, pc.sum(table["kept"]).as_py() or 0)
    if persons != (counts.detected, counts.kept):
        yield (
            f"has {persons[0]} detected and {persons[1]} kept persons, but the commit record counts "
            f"{counts.detected} and {counts.kept}"
        )
    ok = table.filter(pc.equal(table["status"].cast(pa.string()), "ok"))
    doubled = sorted(key for key, n in Counter(ok["frame_key"].to_pylist()).items() if n > 1)
    if doubled:
        yield f"has frames more than once: {first_of(doubled)}"


def _of_frames(total: int, ok: int, failed: int) -> str:
    return f"{counted(total, 'frame')} = {ok} ok + {failed} failed"


def _check_persons(table: pa.Table, record: CommitRecord) -> Iterator[str]:
    counts = record.counts
    dropped = Counter(reason for reason in table["drop_reason"].to_pylist() if reason is not None)
    found = (table.num_rows, pc.sum(table["kept"]).as_py() or 0, dict(dropped))
    said = (counts.detected, counts.kept, dict(counts.dropped))
    if found != said:
        yield f"has {_of_persons(*found)}, but the commit record counts {_of_persons(*said)}"
    doubled = sorted(f"{frame}/{index}" for (frame, index), n in Counter(_keys(table)).items() if n > 1)
    if doubled:
        yield f"has persons more than once: {first_of(doubled)}"


def _of_persons(detected: int, kept: int, dropped: Mapping[str, int]) -> str:
    reasons = "".join(f" + {number} {reason}" for reason, number in sorted(dropped.items()))
    return f"{counted(detected, 'person')} = {kept} kept{reasons}"


def _check_annotations(table: pa.Table, record: CommitRecord, annotator: str) -> Iterator[str]:
    found = Counter(table["status"].to_pylist())
    said = record.annotators.get(annotator, {})
    if dict(found) != dict(said):
        yield f"has the outcomes {_of_outcomes(found)}, but the commit record counts {_of_outcomes(said)}"
    unknown = sorted(set(found) - set(OUTCOMES))
    if unknown:
        yield f"has outcomes that don't exist: {first_of(unknown)}"
    answered = table.filter(pc.is_in(table["status"].cast(pa.string()), pa.array(ANSWERED)))
    for attribute in attributes_of(table, _NO_ATTRIBUTES):
        strange = set(answered[attribute.name].unique().to_pylist()) - set(attribute.values)
        if strange:
            values = first_of(sorted(map(str, strange)))
            yield f"has values of {attribute.name} that are not allowed: {values}"
    if annotator in record.cost_usd:
        cost = pc.sum(table["cost_usd"]).as_py() or 0.0
        if abs(cost - record.cost_usd[annotator]) > _CENT_FRACTION:
            yield f"costs {cost:.6f} USD, but the commit record says {record.cost_usd[annotator]:.6f}"


def _of_outcomes(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())) or "none"


def _keys(table: pa.Table) -> list[tuple[str, int]]:
    return list(zip(table["frame_key"].to_pylist(), table["person_index"].to_pylist(), strict=True))
