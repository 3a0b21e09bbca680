"""`shopframe evaluate --truth corrections`: accuracy against the output's own human decisions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.corrections.calibration import AttributeCalibration, read_calibration, write_calibration
from actors.corrections.consensus import Consensus, read_consensus
from actors.corrections.decision_log import read_decisions
from actors.corrections.final_values import SOURCE, PersonDecisions, final_columns
from actors.corrections.settings import ABSTAINED, HUMAN, ConsensusSettings
from actors.errors import OutputError
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.evaluation.gold import USED, Gold, read_gold
from jobs.evaluation.gold_accuracy import GoldAccuracy, Said, bands_of, gold_accuracy, said_in
from jobs.exchange.person_queries import annotators_in
from jobs.exchange.selection import consolidated
from jobs.run.measured import FILE, FINAL
from jobs.run.run_record import read_run

CORRECTIONS = "corrections"
"""What stands for a ground-truth table on the command line."""

NO_LABELS = (
    "no person was drawn at random and decided: every value is a model's guess, and nothing is known about "
    "its accuracy; decide some in the random audit of shopframe serve, or with shopframe review export "
    "--purpose audit"
)
_WITH_LABELS = (
    "estimated from persons that were drawn at random, each weighed by one over the probability of being "
    "drawn and decided; decisions about persons chosen by need are not used"
)


@dataclass(frozen=True, slots=True)
class GoldEvaluation:
    """The content of `evaluation/corrections.json`.

    Attributes:
        output: URI of the output.
        note: What the numbers rest on.
        persons: Persons in the consolidated table.
        drawn_among: Among whom the persons were drawn, in words.
        outside: Persons in the table for whom the estimates don't stand, because they could not be drawn.
        labelled: Persons with a decided value who were drawn at random.
        decisions: What became of all decisions, by kind; they add up.
        decisions_digest: Changes with the decisions that are used.
        width: The wished width of intervals.
        weighing: How final values come about.
        coverage: Share of persons with an answer whose final value is not withheld, by attribute, in the
            consolidated table as it is.
        calibration: What a calibration that was asked for now has done, for the user; None if none was.
        annotators: By annotator, and for `final`, the accuracy by attribute.
    """

    output: str
    note: str
    persons: int
    drawn_among: str
    outside: int
    labelled: int
    decisions: Mapping[str, int]
    decisions_digest: str
    width: float
    weighing: str
    coverage: Mapping[str, float | None]
    calibration: str | None
    annotators: Mapping[str, Mapping[str, GoldAccuracy]]

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as a JSON object."""
        return asdict(self)


def measure_by_corrections(
    output: ObjectStore, report: ObjectStore, width: float, calibrates: bool = False
) -> tuple[GoldEvaluation, list[str]]:
    """Estimate the accuracy of annotators and of final values from random decisions, and write the file.

    Args:
        output: The output, with a consolidated table.
        report: Where `corrections.json` is written.
        width: Wished width of an accuracy's interval.
        calibrates: Whether to fit a calibration and keep it in the output, before accuracy is estimated.

    Returns:
        The estimates, and the URIs of the files.

    Raises:
        ConfigError: The output has no run, or no consolidated table.
        OutputError: The file can't be written.
        StoreError: Somebody else has calibrated meanwhile.
    """
    run = read_run(output)
    schema = AttributeSchema(run.section("schema", SchemaSettings))
    persons = consolidated(output)
    gold = read_gold(persons, schema, read_decisions(output))
    said = {name: _said(gold, schema, name) for name in annotators_in(persons.schema.names)}
    settings = run.section("consensus", ConsensusSettings)
    text = _calibrate(output, gold, schema, settings) if calibrates else None
    consensus = read_consensus(output, settings)
    said[FINAL] = _final(gold, schema, consensus)
    bands = bands_of(gold.rows)
    labelled = {row for rows in gold.truth.values() for row in rows} - gold.not_persons
    found = GoldEvaluation(
        output=output.uri,
        note=_WITH_LABELS if gold.decisions.get(USED) else NO_LABELS,
        persons=persons.count_rows(),
        drawn_among=gold.drawn_among(),
        outside=gold.outside() if labelled else 0,
        labelled=len(labelled),
        decisions=gold.decisions,
        decisions_digest=gold.digest,
        width=width,
        weighing=consensus.in_words(schema.names),
        coverage=coverage_of(persons, schema.names),
        calibration=text,
        annotators={
            name: {a.name: gold_accuracy(a, gold, of[a.name], bands, width) for a in schema if a.name in of}
            for name, of in said.items()
        },
    )
    try:
        report.write(FILE, json.dumps(found.as_dict(), indent=1).encode())
    except STORAGE_ERRORS as error:
        raise OutputError(
            f"{report.uri}: can't write the evaluation: {storage_error_text(error)}; choose another place "
            "with --report"
        ) from error
    return found, [report.uri_of(FILE)]


def _calibrate(output: ObjectStore, gold: Gold, schema: AttributeSchema, settings: ConsensusSettings) -> str:
    """Fit a calibration, keep it, and return what it is."""
    from jobs.evaluation.calibrating import MIN_LABELS, calibrate

    before = read_calibration(output)
    made = calibrate(gold, schema, settings.precedence)
    if before is None and not made.attributes:
        return (
            f"nothing is calibrated: no attribute has {MIN_LABELS} random decisions about answers of an "
            "annotator"
        )
    write_calibration(output, made, None if before is None else before[1])
    fitted = ", ".join(f"{name} ({_fitted(one)})" for name, one in made.attributes.items()) or "nothing"
    left = [a.name for a in schema if a.name not in made.attributes and a.type != "integer"]
    few = f"; fewer than {MIN_LABELS} decisions: {', '.join(left)}" if left else ""
    return f"calibrated {fitted}{few}; run shopframe consolidate to apply it"


def _fitted(one: AttributeCalibration) -> str:
    parts = [f"{name} {curve.method} from {curve.labels:,}" for name, curve in one.whole.curves.items()]
    return "; ".join([*parts, *([f"both {one.whole.weighing.method}"] if one.whole.weighing else [])])


def coverage_of(persons: ds.Dataset, attributes: Sequence[str]) -> dict[str, float | None]:
    """Return the share of final values of machines that are not withheld, by attribute."""
    found: dict[str, float | None] = {}
    for name in attributes:
        source = pc.field(f"{name}_{SOURCE}")
        if f"{name}_{SOURCE}" not in persons.schema.names:
            continue
        given = persons.count_rows(filter=source.is_valid() & (source != HUMAN))
        withheld = persons.count_rows(filter=source == ABSTAINED)
        found[name] = (given - withheld) / given if given else None
    return found


def answers_in(rows: pa.Table) -> dict[str, dict[str, pa.ChunkedArray]]:
    """Return the columns of each annotator in consolidated rows, as `final_columns` takes them."""
    return {
        name: {
            column.removeprefix(f"{name}_"): rows[column]
            for column in rows.column_names
            if column.startswith(f"{name}_")
        }
        for name in annotators_in(rows.column_names)
    }


def _said(gold: Gold, schema: AttributeSchema, annotator: str) -> dict[str, Said]:
    found = {attribute.name: said_in(gold.rows, annotator, attribute) for attribute in schema}
    return {name: said for name, said in found.items() if said is not None}


def _final(gold: Gold, schema: AttributeSchema, consensus: Consensus) -> dict[str, Said]:
    rows = gold.rows
    values = final_columns(answers_in(rows), PersonDecisions(), schema, consensus, rows.num_rows)
    return {
        name: Said(_is_shown(values[f"{name}_{SOURCE}"]), values[name].to_pylist()) for name in schema.names
    }


def _is_shown(source: pa.Array) -> NDArray[np.bool_]:
    return np.array([one not in (None, ABSTAINED) for one in source.to_pylist()], np.bool_)
