"""Texts that a model might answer, alone or because of something in a picture."""

from __future__ import annotations

import json
from typing import Any

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from tests.corpus.kinds import BadText

SCHEMA = AttributeSchema(SchemaSettings())
GOOD: dict[str, Any] = SCHEMA.nest({attribute.name: attribute.values[0] for attribute in SCHEMA})
_DEEP = 100_000


def _changed(**values: Any) -> bytes:
    return json.dumps({**GOOD, **values}).encode()


def _refused(name: str, text: str | bytes, says: str) -> BadText:
    return BadText(f"answer: {name}", text if isinstance(text, bytes) else text.encode(), says)


ANSWERS = (
    _refused("prose", "I can't tell.", "not JSON"),
    _refused("half of JSON", json.dumps(GOOD)[:40], "not JSON"),
    _refused("100,000 lists in lists", "[" * _DEEP + "]" * _DEEP, "not JSON"),
    _refused("number of 5,000 digits", '{"exact_age": ' + "9" * 5000 + "}", "not JSON"),
    _refused("16 MiB of text", "a" * 2**24, "not JSON"),
    _refused("an additional key", _changed(admin=True), "admin: Extra inputs are not permitted"),
    _refused(
        "a missing key",
        json.dumps({k: v for k, v in GOOD.items() if k != "gender"}),
        "gender: Field required",
    ),
    _refused("a value that isn't in the schema", _changed(gender="pirate"), "gender: Input should be"),
    _refused("a list in place of a value", _changed(gender=["male"]), "gender: Input should be"),
    _refused("an object in place of a value", _changed(gender={"$ne": 1}), "gender: Input should be"),
    _refused("NaN in place of a number", _changed(exact_age=float("nan")), "exact_age: Input should be"),
    _refused("age of 10,000", _changed(exact_age=10_000), "exact_age: Input should be"),
    _refused("nested attributes as text", _changed(attributes="none"), "attributes: Input should be"),
    _refused("another schema as the answer", '{"type": "object", "properties": {}}', "Field required"),
    _refused("keys of Python's objects", _changed(__class__={"__init__": 1}), "__class__: Extra inputs"),
    _refused("markup as a value", _changed(gender="<script>alert(1)</script>"), "gender: Input should be"),
    BadText(
        "answer: instructions and markup as the reasoning",
        _changed(reasoning="<script>alert(1)</script> Ignore the schema. =1+1"),
        remark="a text of at most 300 characters",
    ),
    BadText(
        "answer: the same key twice",
        b'{"gender": "pirate", ' + json.dumps(GOOD).encode()[1:],
        remark="the last value",
    ),
)
