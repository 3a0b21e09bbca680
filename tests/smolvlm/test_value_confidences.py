"""A value's confidence is computed from the tokens of the answer and their alternatives."""

from __future__ import annotations

import json
import math

import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.smolvlm.value_confidences import WrittenToken, certainty_of

COLOURS = {"type": "category", "values": ["red", "rose", "blue"]}


def schema_of(**attributes):
    return AttributeSchema(
        SchemaSettings.model_validate({"attributes": _dropped() | attributes, "rules": []})
    )


def _dropped():
    return dict.fromkeys(SchemaSettings().attributes)


def certain(text):
    return WrittenToken(text.encode(), [(text.encode(), 0.0)])


def token(text, **alternatives):
    """A token with its probability and those of others, for which `_` stands for a quote."""
    return WrittenToken(
        text.encode(), [(name.replace("_", '"').encode(), math.log(p)) for name, p in alternatives.items()]
    )


def test_a_value_of_one_token_is_compared_with_the_other_values_only():
    schema = schema_of(colour=COLOURS)
    tokens = [
        certain('{"colour": "'),
        token("blue", blue=0.6, red=0.1, rose=0.1, green=0.2),
        certain('"}'),
    ]
    found = certainty_of('{"colour": "blue"}', tokens, schema)
    assert found.confidence == {"colour": pytest.approx(0.75)}
    assert dict(found.distribution["colour"]) == pytest.approx({"blue": 0.75, "red": 0.125, "rose": 0.125})
    assert found.distribution["colour"][0][0] == "blue"


def test_steps_multiply_and_other_tokens_for_the_same_value_count_for_it():
    schema = schema_of(colour=COLOURS)
    tokens = [
        certain('{"colour":'),
        token(' "r', **{" _r": 0.5, " _b": 0.25, " _blue": 0.15, " ": 0.1}),
        token("ed", ed=0.6, ose=0.2, o=0.2),
        certain('"}'),
    ]
    found = certainty_of('{"colour": "red"}', tokens, schema)
    # " " decides nothing, and doesn't count.
    assert found.confidence["colour"] == pytest.approx(0.5 / 0.9 * 0.6)
    shares = dict(found.distribution["colour"])
    assert shares["blue"] == pytest.approx(0.4 / 0.9, abs=1e-6)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_a_distribution_is_left_out_where_a_value_or_a_branch_is_not_known():
    schema = schema_of(colour=COLOURS)
    unlisted = [certain('{"colour": "'), token("blue", blue=0.6, red=0.1), certain('"}')]
    ambiguous = [certain('{"colour": "'), token("blue", blue=0.6, r=0.4), certain('"}')]
    for tokens, confidence in ((unlisted, 0.6 / 0.7), (ambiguous, 0.6)):
        found = certainty_of('{"colour": "blue"}', tokens, schema)
        assert found.confidence["colour"] == pytest.approx(confidence)
        assert found.distribution == {}


def test_what_follows_tells_a_number_from_one_that_it_begins():
    schema = schema_of(age={"type": "integer", "min": 0, "max": 29})
    answer = '{"age": 2}'
    tokens = [
        certain('{"age": '),
        # "1" leads to 11 of the values, "2" to 11, and "20" to one of these.
        token("2", **{"1": 0.5, "2": 0.4, "20": 0.1}),
        token("}", **{"}": 0.8, "5": 0.1, "7": 0.1}),
    ]
    found = certainty_of(answer, tokens, schema)
    assert found.confidence["age"] == pytest.approx(0.5 * 0.8)
    assert found.distribution == {}


def test_booleans_and_null_in_nested_pretty_printed_json():
    schema = schema_of(cap={"type": "boolean", "nullable": True, "nested": True}, colour=COLOURS)
    answer = json.dumps({"colour": "red", "attributes": {"cap": None}}, indent=1)
    before, _, after = answer.partition("null")
    tokens = [certain("\n"), certain(before), token("null", null=0.5, true=0.25, false=0.25), certain(after)]
    found = certainty_of(answer, tokens, schema)
    assert found.confidence == {"colour": 1.0, "cap": 0.5}
    assert dict(found.distribution["cap"]) == {None: 0.5, True: 0.25, False: 0.25}


def test_characters_that_tokens_divide_are_put_together():
    schema = schema_of(colour={"type": "category", "values": ["grün", "grau"]})
    start, end = b'{"colour": "gr', "ün".encode()
    tokens = [
        WrittenToken(start, [(start, 0.0)]),
        WrittenToken(end[:1], [(end[:1], math.log(0.8)), (b"a", math.log(0.2))]),
        WrittenToken(end[1:] + b'"}', [(end[1:] + b'"}', 0.0)]),
    ]
    found = certainty_of('{"colour": "grün"}', tokens, schema)
    assert found.confidence["colour"] == pytest.approx(0.8)
    assert dict(found.distribution["colour"]) == pytest.approx({"grün": 0.8, "grau": 0.2})


def test_tokens_of_another_text_tell_nothing():
    schema = schema_of(colour=COLOURS)
    assert certainty_of('{"colour": "red"}', [certain('{"colour": "blue"}')], schema).confidence == {}
    assert certainty_of('{"colour": "red"}', [], schema).confidence == {}
