"""The definition of the attributes that every annotator answers, and everything derived from it.

The prompt text, JSON schema, pydantic model, Arrow columns and validation all come from the `schema`
section of the configuration, so an attribute added in YAML appears in all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from actors.attribute import DISTRIBUTION_PREFIX, Attribute, AttributeValue
from actors.attribute_rules import Rule, parse_rules
from actors.attribute_settings import SchemaSettings

NESTED_KEY = "attributes"
"""Key of the JSON object that holds the nested attributes."""

REASONING_KEY = "reasoning"
REASONING_MAX_CHARS = 300

_UNCERTAIN = (
    "Where something can't be seen, such as glasses from behind, or the image is too small, too dark or too "
    'blurred to tell, choose "unknown" or null.'
)
_UNCERTAIN_IS_FALSE = (
    'Where the image is too small, too dark or too blurred to tell, choose "unknown", null or false.'
)
"""For attributes of which a boolean can't be null. Fingerprints of earlier versions depend on its wording."""


class AttributeSchema:
    """The attributes in the order of the answer: first those at the top level, then the nested ones."""

    def __init__(self, settings: SchemaSettings) -> None:
        defined = [s.named(n) for n, s in settings.attributes.items() if s is not None]
        self._attributes = tuple(sorted(defined, key=lambda attribute: attribute.nested))
        self._rule_texts = tuple(rule.text for rule in settings.parsed_rules())

    def __iter__(self) -> Iterator[Attribute]:
        return iter(self._attributes)

    def __len__(self) -> int:
        return len(self._attributes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttributeSchema) and self.__getstate__() == other.__getstate__()

    def __hash__(self) -> int:
        return hash(self.__getstate__())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the attributes, in order."""
        return tuple(attribute.name for attribute in self._attributes)

    @property
    def sha256(self) -> str:
        """The fingerprint of everything that can change an answer, including descriptions and order."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the attributes as JSON, to be stored beside answers."""
        # Ranges are left out where there are none, so that fingerprints of earlier versions stay valid.
        return json.dumps(
            [
                [a.name, a.type, a.values, a.nested, a.description, *([a.ranges] if a.ranges else [])]
                for a in self._attributes
            ]
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back what `to_json` wrote, which has no rules."""
        schema = cls.__new__(cls)
        schema._rule_texts = ()
        schema._attributes = tuple(
            Attribute(
                name,
                kind,
                tuple(values),
                nested,
                description,
                {v: (r[0], r[1]) for r_of in more for v, r in r_of.items()},
            )
            for name, kind, values, nested, description, *more in json.loads(text)
        )
        return schema

    def only(self, names: Collection[str]) -> Self:
        """Return the schema reduced to the attributes with these names, and to the rules among them."""
        schema = type(self).__new__(type(self))
        left = {a.name: a if a.name in names else None for a in self._attributes}
        schema._attributes = tuple(a for a in left.values() if a is not None)
        schema._rule_texts = tuple(rule.text for rule in parse_rules(self._rule_texts, left))
        return schema

    def answer_model(self, reasoning: bool) -> type[BaseModel]:
        """Return the pydantic model of an answer, which rejects unknown and missing keys.

        Args:
            reasoning: Whether the answer also contains a short explanation.
        """
        closed = ConfigDict(extra="forbid")
        fields: dict[str, Any] = {a.name: _pydantic_field(a) for a in self if not a.nested}
        nested: dict[str, Any] = {a.name: _pydantic_field(a) for a in self if a.nested}
        if nested:
            fields[NESTED_KEY] = (create_model("Attributes", __config__=closed, **nested), ...)
        if reasoning:
            text = Annotated[str, Field(max_length=REASONING_MAX_CHARS)]
            fields[REASONING_KEY] = (text, Field(description="Why, in one short sentence"))
        return create_model("Answer", __config__=closed, **fields)

    def json_schema(self, reasoning: bool) -> dict[str, Any]:
        """Return the JSON schema of an answer, without references and titles."""
        model = self.answer_model(reasoning)
        schema = model.model_json_schema()
        definitions = schema.pop("$defs", {})
        inlined: dict[str, Any] = _inline(schema, definitions)
        return inlined

    def prompt_text(self) -> str:
        """Return the fields and their allowed values, to replace `{schema}` in a prompt."""
        lines = [f"- {a.prompt_line()}" for a in self if not a.nested]
        nested = [f"  - {a.prompt_line()}" for a in self if a.nested]
        if nested:
            lines += [f'- "{NESTED_KEY}": an object with', *nested]
        return "\n".join(lines)

    def prompt_uncertainty(self) -> str:
        """Return what to answer where something can't be seen, to replace `{uncertainty}` in a prompt."""
        if all(attribute.nullable for attribute in self if attribute.type == "boolean"):
            return _UNCERTAIN
        return _UNCERTAIN_IS_FALSE

    def arrow_fields(self, prefix: str = "") -> list[pa.Field]:
        """Return one column per attribute; they are nullable because only answers have values."""
        return [pa.field(f"{prefix}{a.name}", a.arrow_type) for a in self]

    def arrow_confidence_fields(self, prefix: str = "") -> list[pa.Field]:
        """Return one nullable float32 column per attribute: the probability (0..1) of the chosen value."""
        return [pa.field(f"{prefix}confidence_{a.name}", pa.float32()) for a in self]

    def arrow_distribution_fields(self) -> list[pa.Field]:
        """Return one nullable column per attribute: values with their probabilities, the likeliest first."""
        return [
            pa.field(
                f"{DISTRIBUTION_PREFIX}{a.name}",
                pa.list_(pa.struct([("value", a.plain_arrow_type), ("probability", pa.float32())])),
            )
            for a in self
        ]

    def parse(self, obj: Mapping[str, Any]) -> dict[str, AttributeValue]:
        """Validate an answer and flatten it.

        Args:
            obj: The answer in the form of the JSON document; it may contain a "reasoning" text.

        Returns:
            The value of each attribute by name, in the order of the schema.

        Raises:
            ValueError: The answer is not valid; the message names the field and what is wrong with it.
        """
        model = self._with_reasoning if isinstance(obj, Mapping) and REASONING_KEY in obj else self._without
        try:
            answer = model.model_validate(obj).model_dump()
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            field = ".".join(str(part) for part in problem["loc"]) or "answer"
            raise ValueError(f"{field}: {problem['msg']}") from None
        flat = answer | answer.get(NESTED_KEY, {})
        return {name: flat[name] for name in self.names}

    def nest(self, values: Mapping[str, AttributeValue]) -> dict[str, Any]:
        """Convert flat values to the form of the JSON document, which `parse` reads."""
        document: dict[str, Any] = {a.name: values[a.name] for a in self if not a.nested}
        nested = {a.name: values[a.name] for a in self if a.nested}
        return {**document, NESTED_KEY: nested} if nested else document

    def violations(self, values: Mapping[str, AttributeValue]) -> list[str]:
        """Return the rules that an answer breaks, as they are written in the settings."""
        return [rule.text for rule in self.rules if not rule.holds(values)]

    def __getstate__(self) -> tuple[tuple[Attribute, ...], tuple[str, ...]]:
        # The cached models and rules have classes and functions made at run time, which can't be pickled.
        return self._attributes, self._rule_texts

    def __setstate__(self, state: tuple[tuple[Attribute, ...], tuple[str, ...]]) -> None:
        self._attributes, self._rule_texts = state

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that apply."""
        return tuple(parse_rules(self._rule_texts, {a.name: a for a in self._attributes}))

    @cached_property
    def _without(self) -> type[BaseModel]:
        return self.answer_model(reasoning=False)

    @cached_property
    def _with_reasoning(self) -> type[BaseModel]:
        return self.answer_model(reasoning=True)


def _pydantic_field(attribute: Attribute) -> tuple[Any, Any]:
    return (attribute.python_type, Field(description=attribute.description or None))


def _inline(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Replace references by their definitions, because some model servers don't follow references."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(definitions[node["$ref"].rpartition("/")[2]], definitions)
    # A "title" that pydantic added is a string; the definition of an attribute named "title" is kept.
    return {k: _inline(v, definitions) for k, v in node.items() if not (k == "title" and isinstance(v, str))}
