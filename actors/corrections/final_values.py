"""The final value of each attribute: what people decided, or else what annotators answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.attribute import Attribute, AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.calibration import asked_with
from actors.corrections.consensus import Consensus, Given
from actors.corrections.decision import MISSED, Box, Decision, in_force
from actors.corrections.matching import as_box, find_persons
from actors.corrections.settings import ABSTAINED, AGREEMENT, HUMAN
from actors.records import ANSWERED

SOURCE = "source"
CONFIDENCE = "confidence"
IS_PERSON = "is_person"
CORRECTED_BOX = "corrected_bbox"
_ROUNDING = 1e-9
"""How much two machines may differ in a probability."""


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
    consensus: Consensus,
    rows: int,
) -> dict[str, pa.Array]:
    """Return the columns of `final_fields`.

    Where a calibration knows the answers, they are weighed by it, and otherwise the first source wins.

    Args:
        answers: By annotator, the columns of its answers, in the order of the persons: `status`, attributes
            and `confidence_<attribute>`.
        decided: What people decided.
        attributes: The attributes.
        consensus: How the sources are weighed.
        rows: Number of persons.
    """
    boxes = [decided.boxes.get(row) for row in range(rows)]
    found = {
        IS_PERSON: pa.array([row not in decided.not_persons for row in range(rows)], pa.bool_()),
        CORRECTED_BOX: pa.array(boxes, pa.list_(pa.float32())),
    }
    answered = {name: _Answered.of(name, columns) for name, columns in answers.items()}
    for attribute in attributes:
        given = {name: said for name, one in answered.items() if (said := one.given(attribute)) is not None}
        human = _decided(decided.values.get(attribute.name, {}), attribute, rows)
        source, value, confidence = (
            pa.nulls(rows, pa.string()),
            pa.nulls(rows, _plain(attribute)),
            pa.nulls(rows, pa.float32()),
        )
        for one in reversed(_in_order(attribute, given, human, consensus, rows)):
            source = pc.if_else(one.is_given, one.source, source)
            value = pc.if_else(one.is_given, one.value, value)
            confidence = pc.if_else(one.is_given, one.confidence, confidence)
        found[attribute.name] = value
        found[f"{attribute.name}_{SOURCE}"] = source
        found[f"{attribute.name}_{CONFIDENCE}"] = confidence
    return found


def _in_order(
    attribute: Attribute, given: Mapping[str, Given], human: Given | None, consensus: Consensus, rows: int
) -> list[Given]:
    """Return the sources of an attribute's value, of which the first one that has a value wins.

    What the calibration speaks for comes before all other answers of machines. Where an accuracy is
    promised, only such values are shown that keep the promise, and other answers are withheld.
    """
    weighed = consensus.weighed(attribute.name, given)
    threshold = consensus.thresholds.get(attribute.name)
    machines = {name: one for name, one in given.items() if name in consensus.precedence}
    withheld = None
    if threshold is not None:
        confidence = pa.nulls(rows, pa.float32()) if weighed is None else weighed[0].confidence
        answered = reduce(pc.or_, (one.is_given for one in machines.values()), pa.array([False] * rows))
        withheld = Given(answered, pa.nulls(rows, _plain(attribute)), confidence, ABSTAINED)
        machines = {}
    elif AGREEMENT in consensus.precedence and len(given) > 1:
        machines[AGREEMENT] = _agreement(list(given.values()), attribute, rows)
    found: list[Given] = []
    for name in consensus.precedence:
        if name == HUMAN:
            found += [human] if human is not None else []
            continue
        if weighed is not None:
            sure = True if threshold is None else weighed[1] >= threshold - _ROUNDING
            found.append(weighed[0].where(np.broadcast_to(sure, rows)))
            weighed = None
        found += [machines[name]] if name in machines else []
    return found if withheld is None else [*found, withheld]


@dataclass(frozen=True, slots=True)
class _Answered:
    """The answers of one annotator: which rows have values, and which model and prompt gave them."""

    name: str
    columns: Mapping[str, pa.ChunkedArray]
    is_ok: pa.Array
    asked_with: pa.Array | None

    @classmethod
    def of(cls, name: str, columns: Mapping[str, pa.ChunkedArray]) -> _Answered:
        status = _array(columns["status"]).cast(pa.string())
        is_ok = pc.fill_null(pc.is_in(status, pa.array(ANSWERED)), False)
        return cls(name, columns, is_ok, asked_with(columns))

    def given(self, attribute: Attribute) -> Given | None:
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
        return Given(self.is_ok, written, surely, self.name, self.asked_with)


def _agreement(sources: Sequence[Given], attribute: Attribute, rows: int) -> Given:
    """Return the value that all sources that give one have in common, where they are at least two."""
    none = Given.nothing(_plain(attribute), rows)
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
        both = Given(pc.or_(both.is_given, one.is_given), value, surer, AGREEMENT)
    return Given(pc.and_(agrees, pc.greater_equal(count, 2)), both.value, both.confidence, AGREEMENT)


def _decided(values: Mapping[int, AttributeValue], attribute: Attribute, rows: int) -> Given | None:
    """Return what people decided, as far as the attribute can have these values, or None if it is nothing."""
    fitting = {row: value for row, value in values.items() if _fits(value, attribute)}
    if not fitting:
        return None
    is_given = [row in fitting for row in range(rows)]
    return Given(
        pa.array(is_given, pa.bool_()),
        pa.array([fitting.get(row) for row in range(rows)], _plain(attribute)),
        pa.array([1.0 if given else None for given in is_given], pa.float32()),
        HUMAN,
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
