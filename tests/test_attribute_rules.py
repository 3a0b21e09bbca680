"""Rules between attributes: what they mean, which are refused, and how broken ones are kept."""

from __future__ import annotations

import pickle

import pytest
from pydantic import ValidationError

from actors.attribute_settings import DEFAULT_RULES, SchemaSettings
from actors.attributes import AttributeSchema
from actors.records import Annotation
from actors.storage.tables import from_parquet, to_parquet
from jobs.settings import load_settings
from tests.support.committed import Found, persons_and_answers

WITHIN, MASK, HEADGEAR = DEFAULT_RULES


@pytest.fixture(scope="module")
def schema() -> AttributeSchema:
    return AttributeSchema(SchemaSettings())


def values_of(schema, **changes):
    plain = {"gender": "male", "age_group": "18 to 28", "exact_age": 20, "season_clothing": "summer"}
    return dict.fromkeys(schema.names, False) | plain | changes


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, []),
        ({"exact_age": 18}, []),
        ({"exact_age": 27}, []),
        ({"exact_age": 17}, [WITHIN]),
        ({"exact_age": 28}, [WITHIN]),
        ({"exact_age": None}, []),
        ({"age_group": "unknown", "exact_age": 99}, []),
        ({"age_group": "under 18", "exact_age": 0}, []),
        ({"age_group": "under 18", "exact_age": 18}, [WITHIN]),
        ({"age_group": "58 and over", "exact_age": 120}, []),
        ({"age_group": "58 and over", "exact_age": 57}, [WITHIN]),
        ({"mask": True}, []),
        ({"mask": True, "facing_camera": None}, [MASK]),
        ({"mask": None, "facing_camera": None}, []),
        ({"hood": True}, []),
        ({"hood": True, "headscarf": None}, []),
        ({"hood": True, "headscarf": True}, [HEADGEAR]),
        ({"exact_age": 50, "mask": True, "facing_camera": None}, [WITHIN, MASK]),
    ],
)
def test_the_default_rules_are_broken_by_what_contradicts_itself(schema, changes, broken):
    assert schema.violations(values_of(schema, **changes)) == broken
    assert pickle.loads(pickle.dumps(schema)).violations(values_of(schema, **changes)) == broken


@pytest.mark.parametrize(
    ("rule", "changes", "holds"),
    [
        ("not facing_camera implies glasses is null", {"facing_camera": False, "glasses": True}, False),
        ("not facing_camera implies glasses is null", {"facing_camera": False, "glasses": None}, True),
        ("not facing_camera implies glasses is null", {"facing_camera": None, "glasses": True}, True),
        ("season_clothing is winter implies not cap", {"season_clothing": "winter", "cap": True}, False),
        ("season_clothing is winter implies not cap", {"season_clothing": "winter", "cap": None}, False),
        ("age_group is 18 to 28 implies exact_age is not 20", {}, False),
        ("exact_age is 1 implies  cap is true", {"exact_age": 1, "cap": False}, False),
        ("exact_age is 1 implies cap is true", {"exact_age": 20, "cap": False}, True),
        ("at most one of cap,hood , headscarf", {"cap": True, "headscarf": True}, False),
        ("at most one of cap, hood, headscarf", {"cap": True, "headscarf": False}, True),
    ],
)
def test_conditions_compare_booleans_numbers_and_texts(rule, changes, holds):
    schema = AttributeSchema(SchemaSettings.model_validate({"rules": [rule]}))
    broken = schema.violations(values_of(schema, **changes))
    assert broken == ([] if holds else [" ".join(rule.split())])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("cap and hood", "is none of: <integer> within <category>"),
        ("at most one of cap", "is none of: <integer> within <category>"),
        ("exact_age within agegroup", "there is no attribute agegroup"),
        ("cap within age_group", "cap is of type boolean, not integer"),
        ("exact_age within cap", "cap is of type boolean, not category"),
        ("gender implies cap", "gender is of type category, not boolean"),
        ("at most one of cap, gender", "gender is of type category, not boolean"),
        ("cap implies gender is Male", "gender has no value Male"),
        ("cap implies exact_age is 121", "exact_age has no value 121"),
        ("cap implies gender male", "'gender male' is none of: <boolean>"),
    ],
)
def test_a_rule_that_means_nothing_is_refused_with_the_reason(rule, said):
    with pytest.raises(ValidationError) as raised:
        SchemaSettings.model_validate({"rules": [rule]})
    assert said in str(raised.value)


def test_a_reduced_schema_has_the_rules_among_its_attributes(schema):
    assert schema.only(schema.names) == schema
    reduced = schema.only(["exact_age", "age_group", "mask", "hood"])
    assert [rule.text for rule in reduced.rules] == [WITHIN]


def test_rules_of_dropped_attributes_do_not_apply():
    given = ["schema.attributes.mask=null", "schema.attributes.hood=null"]
    schema = AttributeSchema(load_settings((), given).settings.attributes)
    assert [rule.text for rule in schema.rules] == [WITHIN]


def test_default_rules_do_not_apply_to_attributes_that_were_replaced():
    changed = {"type": "boolean", "values": None, "description": ""}
    schema = AttributeSchema(
        load_settings(
            (), [f"schema.attributes.age_group={changed}".replace("None", "null")]
        ).settings.attributes
    )
    assert [rule.text for rule in schema.rules] == [MASK, HEADGEAR]


def test_the_table_names_the_rules_that_an_answer_breaks(schema):
    answers = [
        Annotation("ok", values=values_of(schema, exact_age=50)),
        Annotation("ok", values=values_of(schema)),
        Annotation("invalid", "not JSON"),
    ]
    table = persons_and_answers([Found((0, 0, 1, 1), answers={"gemini": a}) for a in answers])["gemini"]
    read = from_parquet(to_parquet(table))
    assert read["violations"].to_pylist() == [[WITHIN], [], None]
