"""`shopframe evaluate --truth corrections --share gender=female`: a share among an output's persons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from actors.attribute import Attribute, AttributeValue
from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.corrections.consensus import Consensus, read_consensus
from actors.corrections.decision_log import read_decisions
from actors.corrections.final_values import CORRECTED_BOX, IS_PERSON, SOURCE, PersonDecisions, final_columns
from actors.corrections.settings import ConsensusSettings
from actors.errors import ConfigError
from actors.storage.object_store import ObjectStore
from jobs.evaluation.against_corrections import answers_in
from jobs.evaluation.estimates import Estimate
from jobs.evaluation.gold import Gold, read_gold
from jobs.evaluation.shares import MIN_LABELS, Labelled, estimate_share
from jobs.exchange.selection import condition_errors, consolidated, fitting_persons
from jobs.run.run_record import read_run

_KEYS = ("shard_id", "frame_key", "person_index")
_ROWS_AT_ONCE = 50_000
_COLUMN = re.compile(r"\s*(\w+)")
_COMPUTED = ("certainty", "disagreement", "rarity", "decided", "rule", IS_PERSON, CORRECTED_BOX)

GUESS = "a model's guess: nobody of these persons was drawn at random and decided, so there is no interval"


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
        by_labels_alone: The estimate from the labelled persons alone.
    """

    asked: str
    where: tuple[str, ...]
    note: str
    persons: int
    model: float | None
    share: Estimate
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
    run = read_run(output)
    schema = AttributeSchema(run.section("schema", SchemaSettings))
    attribute, value = _asked(asked, schema)
    _check(where, schema)
    consensus = read_consensus(output, run.section("consensus", ConsensusSettings))
    # Withheld values are predictions, too.
    consensus = Consensus(consensus.precedence, consensus.calibration)
    table = consolidated(output)
    gold = read_gold(table, schema, read_decisions(output))
    one = schema.only([attribute.name])
    predicted, persons, chosen = 0, 0, set[tuple[Any, ...]]()
    drawn = {tuple(row.values()) for row in gold.rows.select(list(_KEYS)).to_pylist()}
    shards = pc.unique(gold.rows["shard_id"])
    wanted = [name for name in table.schema.names if name in _KEYS or _is_answer(name, attribute)]
    with duckdb.connect() as database, condition_errors():
        fitting = fitting_persons(database, database.from_arrow(table), where, schema)
        for batch in fitting.select(*wanted).to_arrow_reader(_ROWS_AT_ONCE):
            rows = pa.Table.from_batches([batch])
            predicted += int(_predicted(rows, one, value, consensus).sum())
            persons += rows.num_rows
            near = rows.select(list(_KEYS)).filter(pc.is_in(rows["shard_id"], shards))
            chosen |= drawn.intersection(tuple(row.values()) for row in near.to_pylist())
    labelled = _labelled(gold, one, value, consensus, chosen)
    share = estimate_share(predicted, persons, labelled)
    return Share(
        asked,
        tuple(where),
        _note(share, persons),
        persons,
        predicted / persons if persons else None,
        share,
        estimate_share(predicted, persons, labelled, trust=0.0) if share.n else Estimate(None, None, None, 0),
    )


@dataclass(frozen=True, slots=True)
class ValueShare:
    """The share of a value of an attribute among all persons of an output.

    Attributes:
        value: The value; None says that it can't be told.
        model: The share by the machines' answers alone.
        estimate: The share by these, put right by people's decisions about persons that were drawn at random.
    """

    value: AttributeValue
    model: float
    estimate: Estimate


def value_shares(output: ObjectStore) -> dict[str, list[ValueShare]]:
    """Estimate the share of every value of the attributes about which persons were drawn and decided.

    Integers are left out, which hardly any two persons have in common. The persons are read once.

    Returns:
        The shares by attribute; none if nobody has decided about persons that were drawn at random.

    Raises:
        ConfigError: The output has no consolidated table.
    """
    run = read_run(output)
    schema = AttributeSchema(run.section("schema", SchemaSettings))
    consensus = read_consensus(output, run.section("consensus", ConsensusSettings))
    consensus = Consensus(consensus.precedence, consensus.calibration)
    table = consolidated(output)
    gold = read_gold(table, schema, read_decisions(output))
    drawn = schema.only([a.name for a in schema if gold.truth.get(a.name) and a.type != "integer"])
    if not drawn.names:
        return {}
    given: dict[str, Counter[AttributeValue]] = {name: Counter() for name in drawn.names}
    persons = 0
    wanted = [c for c in table.schema.names if c in _KEYS or any(_is_answer(c, a) for a in drawn)]
    for batch in table.to_batches(columns=wanted, batch_size=_ROWS_AT_ONCE):
        rows = pa.Table.from_batches([batch])
        persons += rows.num_rows
        found = final_columns(answers_in(rows), PersonDecisions(), drawn, consensus, rows.num_rows)
        for name in drawn.names:
            said = pa.table({"value": found[name], "source": found[f"{name}_{SOURCE}"]})
            for row in said.group_by(["value"]).aggregate([("source", "count")]).to_pylist():
                given[name][row["value"]] += row["source_count"]
    everybody = {tuple(row.values()) for row in gold.rows.select(list(_KEYS)).to_pylist()}
    shares: dict[str, list[ValueShare]] = {}
    for attribute in drawn:
        one = schema.only([attribute.name])
        for value in dict.fromkeys((*attribute.values, None)):
            labelled = _labelled(gold, one, value, consensus, everybody)
            number = given[attribute.name][value]
            if number or labelled.truth.any():
                estimate = estimate_share(number, persons, labelled)
                shares.setdefault(attribute.name, []).append(ValueShare(value, number / persons, estimate))
    return shares


def _note(share: Estimate, persons: int) -> str:
    if not persons:
        return "no person fits the conditions"
    if not share.n:
        return GUESS
    if share.low is None:
        return (
            f"too few to say how sure: {share.n} of these persons were drawn at random and decided, and an "
            f"interval takes {MIN_LABELS}"
        )
    return (
        f"the machines' answers about {persons:,} persons, put right by {share.n:,} that were drawn at "
        "random and decided"
    )


def _labelled(
    gold: Gold,
    schema: AttributeSchema,
    value: AttributeValue,
    consensus: Consensus,
    chosen: set[tuple[Any, ...]],
) -> Labelled:
    (name,) = schema.names
    keys = [tuple(row.values()) for row in gold.rows.select(list(_KEYS)).to_pylist()]
    truth: Mapping[int, AttributeValue] = gold.truth.get(name, {})
    rows = sorted({*truth, *gold.not_persons})
    rows = [row for row in rows if keys[row] in chosen]
    is_person = np.array([row not in gold.not_persons for row in rows], np.float64)
    has = np.array([row in truth and _equal(truth[row], value) for row in rows], np.float64)
    predicted = _predicted(gold.rows, schema, value, consensus)
    chances = [gold.not_persons.get(row) or gold.probability[name][row] for row in rows]
    at = np.array(rows, np.int64)
    return Labelled(
        has * is_person, is_person, predicted[at], np.array(chances, np.float64), gold.clusters[at]
    )


def _predicted(
    rows: pa.Table, schema: AttributeSchema, value: AttributeValue, consensus: Consensus
) -> NDArray[np.float64]:
    """Return 1 where the machines give a value, by the code that consolidates, and else 0."""
    (name,) = schema.names
    found = final_columns(answers_in(rows), PersonDecisions(), schema, consensus, rows.num_rows)
    given = found[f"{name}_{SOURCE}"].is_valid().to_pylist()
    said = found[name].to_pylist()
    return np.array([g and _equal(s, value) for g, s in zip(given, said, strict=True)], np.float64)


def _is_answer(name: str, attribute: Attribute) -> bool:
    endings = (f"_{attribute.name}", "_status", "_model", "_model_version", "_prompt_sha256")
    return name.endswith(endings)


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
    answered = {*schema.names, *_COMPUTED}
    for condition in where:
        found = _COLUMN.match(condition)
        name = found[1] if found else ""
        if name in answered or name.startswith(tuple(f"{one}_" for one in schema.names)):
            raise ConfigError(
                f"--where {condition}: {name} depends on final values, and a share among such persons would "
                "be wrong as often as these are; use camera, captured_at, hour, day or other columns"
            )


def _equal(one: AttributeValue, other: AttributeValue) -> bool:
    return type(one) is type(other) and one == other
