"""`shopframe evaluate --truth corrections --share gender=female`: a share among an output's persons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from actors.attribute import Attribute, AttributeValue
from actors.attributes import AttributeSchema
from actors.errors import ConfigError
from actors.storage.object_store import ObjectStore
from jobs.evaluation.audited import ROWS_AT_ONCE, AuditedOutput
from jobs.evaluation.estimates import Estimate
from jobs.exchange.computed_columns import follows_from_final_values
from jobs.exchange.selection import condition_errors, fitting_persons

_COLUMN = re.compile(r"\s*(\w+)")


@dataclass(frozen=True, slots=True)
class Share:
    """A share among the persons of an archive.

    Attributes:
        asked: The value, as `attribute=value`.
        where: The conditions.
        note: What the number rests on.
        persons: Detections that fit the conditions.
        model: Share of the value among them by the machines' answers alone.
        share: The estimate.
        number: How many persons in frames that is.
        by_labels_alone: The estimate from the labelled persons alone.
    """

    asked: str
    where: tuple[str, ...]
    note: str
    persons: int
    model: float | None
    share: Estimate
    number: Estimate
    by_labels_alone: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Return the share as a JSON object."""
        return asdict(self)


def share_in(output: ObjectStore, asked: str, where: Sequence[str]) -> Share:
    """Estimate the share of a value of an attribute among the persons that fit conditions.

    Args:
        output: The output, with a consolidated table.
        asked: `attribute=value`; `null` stands for values that can't be told.
        where: Conditions as of `shopframe review export --select`, about camera, time and other columns that
            don't follow from answers or decisions.

    Raises:
        ConfigError: The value or a condition is wrong, or the output has no consolidated table.
    """
    audited = AuditedOutput.of(output)
    attribute, value = _asked(asked, audited.schema)
    _check(where, audited.schema)
    one = audited.schema.only([attribute.name])
    with duckdb.connect() as database, condition_errors():
        fitting = fitting_persons(database, database.from_arrow(audited.table), where, audited.schema)
        found = audited.count(fitting.select(*audited.columns(one)).to_arrow_reader(ROWS_AT_ONCE), one)
    predicted, persons = found.values[attribute.name][value], found.persons
    shared = audited.labels(attribute).share(value, predicted, found.cells, found.drawn)
    return Share(
        asked,
        tuple(where),
        shared.rests_on,
        persons,
        predicted / persons if persons else None,
        shared.share,
        shared.number,
        shared.by_labels_alone,
    )


@dataclass(frozen=True, slots=True)
class ValueShare:
    """The share of a value of an attribute among all persons of an output.

    Attributes:
        value: The value; None says that it can't be told.
        model: The share by the machines' answers alone.
        estimate: The share by these, put right by people's decisions about persons that were drawn at random.
        number: How many persons in frames that is.
    """

    value: AttributeValue
    model: float
    estimate: Estimate
    number: Estimate


def value_shares(audited: AuditedOutput) -> dict[str, list[ValueShare]]:
    """Estimate the share of every value of the attributes about which persons were drawn and decided.

    Integers are left out, which hardly any two persons have in common. The persons are read once.

    Returns:
        The shares by attribute; none if nobody has decided about persons that were drawn at random.
    """
    judged = audited.judged()
    if not judged.names:
        return {}
    found = audited.count(audited.batches(judged), judged)
    shares: dict[str, list[ValueShare]] = {}
    for attribute in judged:
        labels = audited.labels(attribute)
        for value in dict.fromkeys((*attribute.values, None)):
            number = found.values[attribute.name][value]
            if number or labels.about(value, found.drawn).truth.any():
                shared = labels.share(value, number, found.cells, found.drawn)
                shares.setdefault(attribute.name, []).append(
                    ValueShare(value, number / found.persons, shared.share, shared.number)
                )
    return shares


def _asked(asked: str, schema: AttributeSchema) -> tuple[Attribute, AttributeValue]:
    name, sign, text = (part.strip() for part in asked.partition("="))
    attribute = next((one for one in schema if one.name == name), None)
    if not sign or attribute is None:
        raise ConfigError(f"--share {asked}: write attribute=value, with one of {', '.join(schema.names)}")
    for value in (*attribute.values, None):
        if text.lower() == ("null" if value is None else str(value).lower()):
            return attribute, value
    raise ConfigError(f"--share {asked}: {text!r} is none of its values; it is {attribute.prompt_line()}")


def _check(where: Sequence[str], schema: AttributeSchema) -> None:
    for condition in where:
        found = _COLUMN.match(condition)
        name = found[1] if found else ""
        if follows_from_final_values(name, schema):
            raise ConfigError(
                f"--where {condition}: {name} depends on final values, and a share among such persons would "
                "be wrong as often as these are; use camera, captured_at, hour, day or other columns"
            )
