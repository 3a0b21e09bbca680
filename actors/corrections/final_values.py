"""The final value of each attribute: what people decided, or else what annotators answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from actors.attribute import Attribute, AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.decision import MISSED, Box, Decision, in_force
from actors.corrections.matching import as_box, find_persons
from actors.corrections.settings import AGREEMENT, HUMAN
from actors.records import ANSWERED

SOURCE = "source"
CONFIDENCE = "confidence"
IS_PERSON = "is_person"
CORRECTED_BOX = "corrected_bbox"


@dataclass(frozen=True, slots=True)
class PersonDecisions:
    """What people decided about the persons of a table, by row.

    Attributes:
        values: The decided value by row, by attribute.
        not_persons: Rows that show no person.
        boxes: The corrected box by row.
        lost: Decisions in force that find no row.
    """

    values: Mapping[str, Mapping[int, AttributeValue]] = field(default_factory=dict)
    not_persons: frozenset[int] = frozenset()
    boxes: Mapping[int, Box] = field(default_factory=dict)
    lost: tuple[Decision, ...] = ()


def decisions_by_row(decisions: Sequence[Decision], persons: pa.Table) -> PersonDecisions:
    """Find the rows that decisions about one shard are about. Of several decisions, the last one counts.

    Args:
        decisions: All decisions about the shard.
        persons: Its kept persons, with frame_key and bbox.
    """
    counting = [decision for decision in in_force(list(decisions)) if decision.detection != MISSED]
    if not counting:
        return PersonDecisions()
    boxes: dict[str, list[Box]] = {}
    rows: dict[tuple[str, int], int] = {}
    for row, (key, bbox) in enumerate(
        zip(persons["frame_key"].to_pylist(), persons["bbox"].to_pylist(), strict=True)
    ):
        in_frame = boxes.setdefault(key, [])
        rows[key, len(in_frame)] = row
        in_frame.append(as_box(bbox))
    places = find_persons(counting, boxes)
    values: dict[str, dict[int, AttributeValue]] = {}
    not_persons: set[int] = set()
    new_boxes: dict[int, Box] = {}
    lost = []
    for decision in counting:
        place = places[decision.decision_id]
        if place is None:
            lost.append(decision)
            continue
        row = rows[place]
        if decision.kind == "not_a_person":
            not_persons.add(row)
        elif decision.new_bbox is not None:
            new_boxes[row] = decision.new_bbox
        else:
            values.setdefault(str(decision.attribute), {})[row] = decision.value
    return PersonDecisions(values, frozenset(not_persons), new_boxes, tuple(lost))


def final_fields(attributes: AttributeSchema) -> list[pa.Field]:
    """Return the columns of final values, in Arrow types that Delta Lake has.

    These are `is_person`, `corrected_bbox`, and for each attribute its value, `<attribute>_source` and
    `<attribute>_confidence`.
    """
    fields = [pa.field(IS_PERSON, pa.bool_()), pa.field(CORRECTED_BOX, pa.list_(pa.float32()))]
    for attribute in attributes:
        fields += [
            pa.field(attribute.name, _plain(attribute)),
            pa.field(f"{attribute.name}_{SOURCE}", pa.string()),
            pa.field(f"{attribute.name}_{CONFIDENCE}", pa.float32()),
        ]
    return fields


def final_columns(
    answers: Mapping[str, Mapping[str, pa.ChunkedArray]],
    decided: PersonDecisions,
    attributes: AttributeSchema,
    precedence: Sequence[str],
    rows: int,
) -> dict[str, pa.Array]:
    """Return the columns of `final_fields`.

    Args:
        answers: By annotator, the columns of its answers, in the order of the persons: `status`, attributes
            and `confidence_<attribute>`.
        decided: What people decided.
        attributes: The attributes.
        precedence: Sources in the order in which they are asked, from `ConsensusSettings`.
        rows: Number of persons.
    """
    boxes = [decided.boxes.get(row) for row in range(rows)]
    found = {
        IS_PERSON: pa.array([row not in decided.not_persons for row in range(rows)], pa.bool_()),
        CORRECTED_BOX: pa.array(boxes, pa.list_(pa.float32())),
    }
    answered = {name: _Answered.of(columns) for name, columns in answers.items()}
    nothing = pa.nulls(rows, pa.string())
    for attribute in attributes:
        given = {name: said for name, one in answered.items() if (said := one.given(attribute)) is not None}
        if AGREEMENT in precedence and len(given) > 1:
            given[AGREEMENT] = _agreement(list(given.values()), attribute, rows)
        if (human := _decided(decided.values.get(attribute.name, {}), attribute, rows)) is not None:
            given[HUMAN] = human
        source, value, confidence = nothing, pa.nulls(rows, _plain(attribute)), pa.nulls(rows, pa.float32())
        for name in reversed([name for name in precedence if name in given]):
            one = given[name]
            source = pc.if_else(one.is_given, name, source)
            value = pc.if_else(one.is_given, one.value, value)
            confidence = pc.if_else(one.is_given, one.confidence, confidence)
        found[attribute.name] = value
        found[f"{attribute.name}_{SOURCE}"] = source
        found[f"{attribute.name}_{CONFIDENCE}"] = confidence
    return found


@dataclass(frozen=True, slots=True)
class _Given:
    """What one source says about an attribute: whether it gives a value, which may be null, and how sure."""

    is_given: pa.Array
    value: pa.Array
    confidence: pa.Array

    @classmethod
    def nothing(cls, attribute: Attribute, rows: int) -> _Given:
        return cls(
            pa.array([False] * rows, pa.bool_()),
            pa.nulls(rows, _plain(attribute)),
            pa.nulls(rows, pa.float32()),
        )


@dataclass(frozen=True, slots=True)
class _Answered:
    """The answers of one annotator: its columns, and which of its rows have values."""

    columns: Mapping[str, pa.ChunkedArray]
    is_ok: pa.Array

    @classmethod
    def of(cls, columns: Mapping[str, pa.ChunkedArray]) -> _Answered:
        status = _array(columns["status"]).cast(pa.string())
        return cls(columns, pc.fill_null(pc.is_in(status, pa.array(ANSWERED)), False))

    def given(self, attribute: Attribute) -> _Given | None:
        """Return what the columns say. A value that the attribute can't have is not given."""
        wanted = _plain(attribute)
        if attribute.name not in self.columns:
            return None
        written = _array(self.columns[attribute.name])
        if pa.types.is_dictionary(written.type):
            written = written.cast(written.type.value_type)
        if written.type != wanted:
            return None
        confidence = self.columns.get(f"confidence_{attribute.name}")
        surely = pa.nulls(len(written), pa.float32()) if confidence is None else _array(confidence)
        return _Given(self.is_ok, written, surely)


def _agreement(sources: Sequence[_Given], attribute: Attribute, rows: int) -> _Given:
    """Return the value that all sources that give one have in common, where they are at least two."""
    none = _Given.nothing(attribute, rows)
    count = pa.array([0] * rows, pa.int8())
    agrees = pa.array([True] * rows, pa.bool_())
    both = none
    for one in sources:
        same = pc.or_(
            pc.fill_null(pc.equal(both.value, one.value), False),
            pc.and_(pc.is_null(both.value), pc.is_null(one.value)),
        )
        clashes = pc.and_(pc.and_(both.is_given, one.is_given), pc.invert(same))
        agrees = pc.and_(agrees, pc.invert(clashes))
        count = pc.add(count, one.is_given.cast(pa.int8()))
        given = pc.if_else(one.is_given, one.confidence, none.confidence)
        surer = pc.max_element_wise(both.confidence, given)
        value = pc.if_else(both.is_given, both.value, pc.if_else(one.is_given, one.value, both.value))
        both = _Given(pc.or_(both.is_given, one.is_given), value, surer)
    return _Given(pc.and_(agrees, pc.greater_equal(count, 2)), both.value, both.confidence)


def _decided(values: Mapping[int, AttributeValue], attribute: Attribute, rows: int) -> _Given | None:
    """Return what people decided, as far as the attribute can have these values, or None if it is nothing."""
    fitting = {row: value for row, value in values.items() if _fits(value, attribute)}
    if not fitting:
        return None
    is_given = [row in fitting for row in range(rows)]
    return _Given(
        pa.array(is_given, pa.bool_()),
        pa.array([fitting.get(row) for row in range(rows)], _plain(attribute)),
        pa.array([1.0 if given else None for given in is_given], pa.float32()),
    )


def _fits(value: AttributeValue, attribute: Attribute) -> bool:
    """Return whether the attribute's column can hold a value. Null says that the value can't be told."""
    if attribute.type == "category":
        return value is None or isinstance(value, str)
    if attribute.type == "boolean":
        return value is None or isinstance(value, bool)
    return value is None or (not isinstance(value, bool) and value in attribute.values)


def _plain(attribute: Attribute) -> pa.DataType:
    return pa.string() if attribute.type == "category" else attribute.arrow_type


def _array(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
