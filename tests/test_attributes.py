"""The attribute schema, and what is derived from it: prompt, JSON schema, columns and fingerprint."""

import json
import pickle
import random

import pyarrow as pa
import pytest
import xgrammar
import yaml
from pydantic import ValidationError

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from tests.support.tiny_smolvlm import make_tiny_smolvlm

DEFAULT_NAMES = ["gender", "age_group", "exact_age", "glasses", "cap", "hood", "headscarf", "mask"]
DEFAULT_NAMES += ["occlusion", "facing_camera", "season_clothing"]


@pytest.fixture(scope="module")
def schema():
    return AttributeSchema(SchemaSettings())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tiny_smolvlm(tmp_path_factory.mktemp("model")))


def with_attributes(text):
    """Return the default attributes with a YAML overlay, which is merged by key as settings files are."""
    attributes = SchemaSettings().model_dump()["attributes"] | yaml.safe_load(text)
    return AttributeSchema(SchemaSettings.model_validate({"attributes": attributes}))


def random_values(schema, seed):
    chooser = random.Random(seed)
    return {a.name: chooser.choice(a.values) for a in schema}


def accepts(tokenizer, json_schema, text):
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer)
    grammar = xgrammar.GrammarCompiler(info).compile_json_schema(
        json.dumps(json_schema), any_whitespace=False
    )
    matcher = xgrammar.GrammarMatcher(grammar, terminate_without_stop_token=True)
    return matcher.accept_string(text) and matcher.is_terminated()


def test_the_default_has_the_documented_attributes_in_order(schema):
    assert list(schema.names) == DEFAULT_NAMES
    assert [a.name for a in schema if a.nested] == DEFAULT_NAMES[3:]
    assert [len(a.values) for a in schema] == [3, 7, 122, *[3] * 7, 3]


def test_nest_and_parse_are_inverse(schema):
    for seed in range(50):
        values = random_values(schema, seed)
        document = json.loads(json.dumps(schema.nest(values)))
        assert list(document) == ["gender", "age_group", "exact_age", "attributes"]
        assert schema.parse(document) == values
        assert schema.parse({**document, "reasoning": "why"}) == values


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"gender": "Male"}, "gender"),
        ({"gender": None}, "gender"),
        ({"exact_age": 121}, "exact_age"),
        ({"exact_age": -1}, "exact_age"),
        ({"exact_age": "30"}, "exact_age"),
        ({"exact_age": True}, "exact_age"),
        ({"exact_age": 30.5}, "exact_age"),
        ({"colour": "red"}, "colour"),
        ({"reasoning": 5}, "reasoning"),
        ({"reasoning": "x" * 301}, "reasoning"),
        ({"attributes": {}}, "attributes.glasses"),
        ({"attributes": []}, "attributes"),
    ],
)
def test_parse_names_the_field_that_is_wrong(schema, change, field):
    document = schema.nest(random_values(schema, 0)) | change
    with pytest.raises(ValueError, match=rf"^{field}\b"):
        schema.parse(document)


@pytest.mark.parametrize("wrong", ["yes", 1, "true"])
def test_parse_does_not_coerce_booleans(schema, wrong):
    document = schema.nest(random_values(schema, 0))
    document["attributes"]["cap"] = wrong
    with pytest.raises(ValueError, match=r"^attributes\.cap: "):
        schema.parse(document)


def test_a_boolean_is_null_only_if_its_definition_says_so(schema, tokenizer):
    strict = with_attributes("cap: {type: boolean, nullable: false, description: Wears a cap}")
    document = schema.nest(random_values(schema, 0))
    document["attributes"]["cap"] = None
    assert schema.parse(document)["cap"] is None
    with pytest.raises(ValueError, match=r"^attributes\.cap: "):
        strict.parse(document)
    text = json.dumps(document)
    assert accepts(tokenizer, schema.json_schema(reasoning=False), text)
    assert not accepts(tokenizer, strict.json_schema(reasoning=False), text)
    assert '"cap": true, false or null (' in schema.prompt_text()
    assert '"cap": true or false (' in strict.prompt_text()
    assert "such as glasses from behind" in schema.prompt_uncertainty()
    assert schema.prompt_uncertainty().endswith('choose "unknown" or null.')
    assert strict.prompt_uncertainty().endswith('choose "unknown", null or false.')


def test_the_prompt_says_to_which_age_group_an_edge_belongs_and_values_stay_as_published(schema):
    [groups] = [line for line in schema.prompt_text().splitlines() if "age_group" in line]
    assert groups == (
        '- "age_group": one of "under 18", "18 to 28" (at least 18, under 28), '
        '"28 to 38" (at least 28, under 38), "38 to 48" (at least 38, under 48), '
        '"48 to 58" (at least 48, under 58), "58 and over" (at least 58), "unknown" (Apparent age in years)'
    )
    own = with_attributes(
        "age_group: {type: category, nested: false, values: [child, 18 to 28], description: '',"
        " ranges: {child: [null, 18], 18 to 28: [18, 28], other: [28, null]}}"
    )
    assert '"age_group": one of "child" (under 18), "18 to 28" (at least 18, under 28)\n' in own.prompt_text()


@pytest.mark.parametrize("answer", [None, [], "male", 3])
def test_parse_refuses_what_is_no_object(schema, answer):
    with pytest.raises(ValueError, match=r"^answer: "):
        schema.parse(answer)


def test_an_attribute_added_in_yaml_reaches_everything(schema, tokenizer):
    added = with_attributes(
        "bag: {type: category, values: [none, backpack, 'hand bag'], description: What is carried}\n"
        "children: {type: integer, min: -1, max: 12, nested: false}\n"
        "mask: null"
    )
    expected = [*DEFAULT_NAMES[:3], "children", *(n for n in DEFAULT_NAMES[3:] if n != "mask"), "bag"]
    assert list(added.names) == expected
    assert '"bag": one of "none", "backpack", "hand bag" (What is carried)' in added.prompt_text()
    assert '"mask"' not in added.prompt_text()
    assert added.sha256 != schema.sha256

    fields = {f.name: f.type for f in added.arrow_fields("gemini_")}
    assert fields["gemini_bag"] == pa.dictionary(pa.int8(), pa.string())
    assert fields["gemini_children"] == pa.int16()
    assert fields["gemini_cap"] == pa.bool_()
    assert [f.name for f in added.arrow_confidence_fields()] == [f"confidence_{name}" for name in added.names]
    assert {f.type for f in added.arrow_confidence_fields()} == {pa.float32()}

    for seed in range(20):
        values = random_values(added, seed)
        document = added.nest(values)
        assert accepts(tokenizer, added.json_schema(reasoning=False), json.dumps(document))
        assert not accepts(tokenizer, schema.json_schema(reasoning=False), json.dumps(document))
        assert added.parse(document) == values
    wrong = json.dumps(document).replace(f'"bag": "{values["bag"]}"', '"bag": "suitcase"')
    assert not accepts(tokenizer, added.json_schema(reasoning=False), wrong)
    with pytest.raises(ValueError, match=r"^attributes\.bag"):
        added.parse(json.loads(wrong))


def test_json_schema_is_self_contained_and_closed(schema):
    text = json.dumps(schema.json_schema(reasoning=True))
    assert "$ref" not in text
    assert "$defs" not in text
    assert '"title"' not in text
    assert text.count('"additionalProperties": false') == 2
    assert list(schema.json_schema(reasoning=True)["properties"])[-1] == "reasoning"
    assert "reasoning" not in schema.json_schema(reasoning=False)["properties"]


def test_an_attribute_may_be_called_title(tokenizer):
    added = with_attributes("title: {type: boolean}")
    values = random_values(added, 1)
    assert accepts(tokenizer, added.json_schema(reasoning=False), json.dumps(added.nest(values)))


def test_values_survive_arrow(schema):
    rows = [random_values(schema, seed) for seed in range(20)] + [dict.fromkeys(schema.names)]
    table = pa.Table.from_pylist(rows, pa.schema(schema.arrow_fields()))
    assert table.to_pylist() == rows


def test_pickling_keeps_schema_and_fingerprint(schema):
    schema.parse(schema.nest(random_values(schema, 0)))
    copy = pickle.loads(pickle.dumps(schema))
    assert copy == schema
    assert copy.sha256 == schema.sha256


def test_only_nested_or_only_flat_attributes():
    flat = AttributeSchema(
        SchemaSettings.model_validate({"attributes": {"a": {"type": "boolean", "nested": False}}})
    )
    assert flat.nest({"a": True}) == {"a": True}
    assert flat.parse({"a": True}) == {"a": True}
    nested = AttributeSchema(SchemaSettings.model_validate({"attributes": {"a": {"type": "boolean"}}}))
    assert nested.nest({"a": False}) == {"attributes": {"a": False}}
    assert nested.parse({"attributes": {"a": False}}) == {"a": False}


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"a": None},
        {"status": {"type": "boolean"}},
        {"reasoning": {"type": "boolean"}},
        {"model": {"type": "boolean"}},
        {"confidence_cap": {"type": "boolean"}},
        {"model_dump": {"type": "boolean"}},
        {"copy": {"type": "boolean"}},
        {"_hidden": {"type": "boolean"}},
        {"two words": {"type": "boolean"}},
        {"class": {"type": "boolean"}},
        {"a": {"type": "category", "values": ["one"]}},
        {"a": {"type": "category", "values": ["one", "one"]}},
        {"a": {"type": "category", "values": ["one", ""]}},
        {"a": {"type": "category", "values": ["one", " two"]}},
        {"a": {"type": "category", "values": ["one", "t\nwo"]}},
        {"a": {"type": "category", "values": [str(i) for i in range(128)]}},
        {"a": {"type": "category"}},
        {"a": {"type": "category", "values": ["one", "two"], "nullable": True}},
        {"a": {"type": "boolean", "values": ["yes", "no"]}},
        {"a": {"type": "boolean", "min": 0}},
        {"a": {"type": "integer"}},
        {"a": {"type": "integer", "min": 5, "max": 4}},
        {"a": {"type": "integer", "min": 0, "max": 1001}},
        {"a": {"type": "integer", "min": 40000, "max": 40001}},
        {"a": {"type": "float"}},
        {"a": {"type": "boolean", "colour": "red"}},
        {"a": {"type": "category", "values": ["old", "new"], "ranges": {"old": [5, 5]}}},
        {"a": {"type": "category", "values": ["old", "new"], "ranges": {"old": [5]}}},
    ],
)
def test_wrong_definitions_are_refused(attributes):
    with pytest.raises(ValidationError):
        SchemaSettings.model_validate({"attributes": attributes})


@pytest.mark.parametrize(
    "change",
    [
        "cap: {type: boolean, description: other}",
        "exact_age: {type: integer, min: 0, max: 120, nested: false}",
        "gender: {type: category, values: [female, male, unknown], nested: false}",
        "glasses: null",
    ],
)
def test_the_fingerprint_follows_what_can_change_an_answer(schema, change):
    assert with_attributes(change).sha256 != schema.sha256
    assert with_attributes("{}").sha256 == schema.sha256
