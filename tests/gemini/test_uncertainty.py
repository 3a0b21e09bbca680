"""Uncertainty is the weighted mean of normalised entropies, of whatever a table knows."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.gemini.backlog.uncertainty import uncertainty_by_person
from actors.records import PERSONS_SCHEMA, Annotation
from actors.storage.tables import annotations_table, from_parquet, to_parquet

SCHEMA = AttributeSchema(
    SchemaSettings.model_validate(
        {
            "attributes": {
                "gender": {"type": "category", "values": ["male", "female", "unknown"]},
                "cap": {"type": "boolean"},
                "age": {"type": "integer", "min": 0, "max": 120, "nullable": True},
            },
        }
    )
)
CERTAIN = (("male", 1.0), ("female", 0.0), ("unknown", 0.0))
EVEN = (("male", 1 / 3), ("female", 1 / 3), ("unknown", 1 / 3))
HALF = ((True, 0.5), (False, 0.5))
SURE = ((True, 1.0), (False, 0.0))
AGES = tuple((years, 0.05) for years in range(20, 28))


def answer(gender, cap):
    distribution = {"gender": gender, "cap": cap, "age": AGES}
    values = {name: shares[0][0] for name, shares in distribution.items()}
    confidence = {name: shares[0][1] for name, shares in distribution.items()}
    return Annotation("ok", None, values, confidence, None, distribution)


def table_of(*answers):
    rows = [
        {
            "shard_id": "s",
            "frame_key": "f",
            "person_index": index,
            "bbox": [0, 0, 1, 1],
            "score": 0.5,
            "kept": True,
        }
        for index in range(len(answers))
    ]
    persons = pa.Table.from_pylist(rows, PERSONS_SCHEMA)
    provenance = {"model": "m", "model_version": "1", "prompt_sha256": "x"}
    return from_parquet(to_parquet(annotations_table(persons, answers, SCHEMA, provenance, "smolvlm")))


def uncertainties(table, weights=None):
    return {index: value for (_, index), value in uncertainty_by_person(table, weights or {}).items()}


def test_entropies_are_normalised_and_integers_left_out():
    table = table_of(answer(CERTAIN, SURE), answer(EVEN, HALF), answer(CERTAIN, HALF))
    assert uncertainties(table) == pytest.approx({0: 0, 1: 1, 2: 0.5})


def test_weights_move_the_mean():
    table = table_of(answer(CERTAIN, HALF))
    assert uncertainties(table, {"cap": 3}) == pytest.approx({0: 0.75})
    assert uncertainties(table, {"cap": 0}) == pytest.approx({0: 0})


def test_a_person_without_an_answer_has_no_uncertainty_here():
    table = table_of(Annotation("error", "out of memory"), answer(EVEN, HALF))
    assert uncertainties(table) == pytest.approx({1: 1})


def test_a_table_without_distributions_is_ranked_by_its_confidences():
    table = table_of(answer((("male", 0.8), ("female", 0.2), ("unknown", 0.0)), SURE))
    older = table.drop_columns([name for name in table.column_names if name.startswith("distribution_")])
    # The most that the entropy can be if one of three values has the probability 0.8.
    entropy = -(0.8 * math.log(0.8) + 2 * 0.1 * math.log(0.1)) / math.log(3)
    assert uncertainties(older) == pytest.approx({0: entropy / 2}, abs=1e-6)
