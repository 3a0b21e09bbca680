"""`shopframe evaluate --truth corrections`: accuracy against the output's own human decisions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.corrections.decision_log import read_decisions
from actors.corrections.final_values import SOURCE, PersonDecisions, final_columns
from actors.corrections.settings import ConsensusSettings
from actors.errors import OutputError
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.evaluation.gold import USED, Gold, read_gold
from jobs.evaluation.gold_accuracy import GoldAccuracy, Said, bands_of, gold_accuracy, said_in
from jobs.exchange.person_queries import annotators_in
from jobs.exchange.selection import consolidated
from jobs.run.run_record import read_run

CORRECTIONS = "corrections"
"""What stands for a ground-truth table on the command line."""
FINAL = "final"
"""Name of the final values that machines alone would give, beside the annotators."""
FILE = "corrections.json"

NO_LABELS = (
    "no person was drawn at random and decided: every value is a model's guess, and nothing is known about "
    "its accuracy; decide some in the random audit of shopframe serve, or with shopframe review export "
    "--purpose audit"
)
_WITH_LABELS = (
    "estimated from persons that were drawn at random, each weighed by one over its recorded probability; "
    "decisions about persons chosen by need are not used"
)


@dataclass(frozen=True, slots=True)
class GoldEvaluation:
    """The content of `evaluation/corrections.json`.

    Attributes:
        output: URI of the output.
        note: What the numbers rest on.
        persons: Persons in the consolidated table.
        labelled: Persons with a decided value who were drawn at random.
        decisions: What became of all decisions, by kind; they add up.
        decisions_digest: Changes with the decisions that are used.
        width: The wished width of intervals.
        annotators: By annotator, and for `final`, the accuracy by attribute.
    """

    output: str
    note: str
    persons: int
    labelled: int
    decisions: Mapping[str, int]
    decisions_digest: str
    width: float
    annotators: Mapping[str, Mapping[str, GoldAccuracy]]

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as a JSON object."""
        return asdict(self)


def measure_by_corrections(
    output: ObjectStore, report: ObjectStore, width: float
) -> tuple[GoldEvaluation, list[str]]:
    """Estimate the accuracy of annotators and of final values from random decisions, and write the file.

    Args:
        output: The output, with a consolidated table.
        report: Where `corrections.json` is written.
        width: Wished width of an accuracy's interval.

    Returns:
        The estimates, and the URIs of the files.

    Raises:
        ConfigError: The output has no run, or no consolidated table.
        OutputError: The file can't be written.
    """
    run = read_run(output)
    schema = AttributeSchema(run.section("schema", SchemaSettings))
    persons = consolidated(output)
    gold = read_gold(persons, schema, read_decisions(output))
    said = {name: _said(gold, schema, name) for name in annotators_in(persons.schema.names)}
    said[FINAL] = _final(gold, schema, run.section("consensus", ConsensusSettings))
    bands = bands_of(gold.rows)
    labelled = {row for rows in gold.truth.values() for row in rows} - gold.not_persons.keys()
    found = GoldEvaluation(
        output=output.uri,
        note=_WITH_LABELS if gold.decisions.get(USED) else NO_LABELS,
        persons=persons.count_rows(),
        labelled=len(labelled),
        decisions=gold.decisions,
        decisions_digest=gold.digest,
        width=width,
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


def _final(gold: Gold, schema: AttributeSchema, consensus: ConsensusSettings) -> dict[str, Said]:
    rows = gold.rows
    values = final_columns(answers_in(rows), PersonDecisions(), schema, consensus.precedence, rows.num_rows)
    return {
        name: Said(
            values[f"{name}_{SOURCE}"].is_valid().to_numpy(zero_copy_only=False), values[name].to_pylist()
        )
        for name in schema.names
    }
