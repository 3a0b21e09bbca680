"""The definition of the attributes that every annotator answers, and everything derived from it.

The prompt text, JSON schema, pydantic model, Arrow columns and validation all come from the `schema`
section of the configuration, so an attribute added in YAML appears in all of them.
"""

from __future__ import annotations

import hashlib
import json
import keyword
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from actors.attribute import Attribute, AttributeType, AttributeValue, Range
from actors.settings_section import Section

NESTED_KEY = "attributes"
"""Key of the JSON object that holds the nested attributes."""

REASONING_KEY = "reasoning"
REASONING_MAX_CHARS = 300

_INTEGER_SPAN = 1000
"""Maximum distance between `min` and `max` of an integer, because the guided decoder scores every value."""

_CATEGORY_VALUES = 127
"""Maximum number of values of a category, limited by the int8 index of the dictionary column."""

# fmt: off
_RESERVED = frozenset({
    "shard", "shard_id", "frame", "frame_key", "frame_size", "person_index", "bbox", "score",
    "detection_score", "kept", "drop_reason", "crop", "camera", "captured_at", "width", "height",
    "annotations", "status", "reason", "reasoning", "model", "model_version", "prompt_sha256",
    "confidence", "attributes", "schema_version",
})
# fmt: on
"""Names that an attribute can't have, because documents use them as keys or tables as columns."""


_UNCERTAIN = (
    "Where something can't be seen, such as glasses from behind, or the image is too small, too dark or too "
    'blurred to tell, choose "unknown" or null.'
)
_UNCERTAIN_IS_FALSE = (
    'Where the image is too small, too dark or too blurred to tell, choose "unknown", null or false.'
)
"""For attributes of which a boolean can't be null. Fingerprints of earlier versions depend on its wording."""


class AttributeSettings(Section):
    """The definition of one attribute of a person."""

    type: AttributeType = Field(
        description="Type of value: category (one of `values`), boolean, or integer (`min` to `max`)."
    )
    values: tuple[str, ...] | None = Field(None, description="Allowed values of a category, in order.")
    min: int | None = Field(None, description="Smallest value of an integer.")
    max: int | None = Field(None, description="Largest value of an integer.")
    nullable: bool = Field(
        False, description="Whether a boolean or an integer may be null, which means 'can't be told'."
    )
    ranges: dict[str, Range] | None = Field(
        None,
        description="Integers that values of a category stand for, for the prompt and for rules. Maps a "
        "value to its lowest integer and the first one above it, where null is no limit. Names that aren't "
        "values of the attribute have no effect.",
    )
    nested: bool = Field(
        True, description='Whether the attribute is placed under "attributes" in the JSON answer.'
    )
    description: str = Field("", description="Meaning of the attribute, for the prompt.", max_length=500)

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type == "category":
            self._check_category()
        elif self.values is not None:
            raise ValueError(f"values belong to a category, not to type {self.type}")
        if self.type == "integer":
            self._check_integer()
        elif self.min is not None or self.max is not None:
            raise ValueError(f"min and max belong to an integer, not to type {self.type}")
        return self

    def _check_category(self) -> None:
        if self.nullable:
            raise ValueError('nullable belongs to a boolean or an integer; a category can have "unknown"')
        for value, (lowest, above) in (self.ranges or {}).items():
            if lowest is not None and above is not None and lowest >= above:
                raise ValueError(f"ranges: {value}: no integer is at least {lowest} and under {above}")
        values = self.values or ()
        if not 2 <= len(values) <= _CATEGORY_VALUES:
            raise ValueError(f"a category needs 2 to {_CATEGORY_VALUES} values, but has {len(values)}")
        for value in values:
            if not value or value != value.strip() or len(value) > 64 or not value.isprintable():
                raise ValueError(
                    f"value {value!r} must be 1 to 64 printable characters, without outer spaces"
                )
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            raise ValueError(f"value {repeated[0]!r} is given twice")

    def _check_integer(self) -> None:
        if self.min is None or self.max is None:
            raise ValueError("an integer needs min and max")
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if self.max - self.min > _INTEGER_SPAN or not -(2**15) <= self.min <= self.max < 2**15:
            raise ValueError(f"min and max must be 16-bit integers at most {_INTEGER_SPAN} apart")


def _default_attributes() -> dict[str, AttributeSettings | None]:
    def category(*values: str, nested: bool, description: str) -> AttributeSettings:
        return AttributeSettings(type="category", values=values, nested=nested, description=description)

    def boolean(description: str) -> AttributeSettings:
        return AttributeSettings(type="boolean", nullable=True, description=description)

    ages: dict[str, Range] = {
        "under 18": (None, 18),
        "18 to 28": (18, 28),
        "28 to 38": (28, 38),
        "38 to 48": (38, 48),
        "48 to 58": (48, 58),
        "58 and over": (58, None),
    }
    return {
        "gender": category(
            "male", "female", "unknown", nested=False, description="Apparent gender of the person"
        ),
        "age_group": AttributeSettings(
            type="category",
            values=(*ages, "unknown"),
            ranges=ages,
            nested=False,
            description="Apparent age in years",
        ),
        "exact_age": AttributeSettings(
            type="integer",
            min=0,
            max=120,
            nullable=True,
            nested=False,
            description="Best single guess of the age in years, null if it can't be told",
        ),
        "glasses": boolean("Wears eyeglasses or sunglasses"),
        "cap": boolean("Wears a cap or a hat"),
        "hood": boolean("Wears a hood over the head"),
        "headscarf": boolean("Wears a headscarf"),
        "mask": boolean("Wears a mask over mouth or nose"),
        "occlusion": boolean("A part of the person is hidden by something or cut off by the image's edge"),
        "facing_camera": boolean("The face is turned to the camera"),
        "season_clothing": category(
            "summer", "winter", "unknown", nested=True, description="Season that the clothing is made for"
        ),
    }


class SchemaSettings(Section):
    """The attributes that every annotator is asked about."""

    attributes: dict[str, AttributeSettings | None] = Field(
        default_factory=_default_attributes,
        description="Maps the name of an attribute to its definition. null drops an attribute that an "
        "earlier file defined.",
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        for name, attribute in self.attributes.items():
            if attribute is not None:
                _check_name(name)
        if not any(self.attributes.values()):
            raise ValueError("attributes must define at least one attribute")
        return self


def _check_name(name: str) -> None:
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or len(name) > 64:
        raise ValueError(f"attributes.{name}: use letters, digits and _ as in a Python name")
    taken = name in _RESERVED or name.startswith(("_", "model_", "confidence_")) or hasattr(BaseModel, name)
    if taken:
        raise ValueError(f"attributes.{name}: the name is taken by another column or key; choose another")


class AttributeSchema:
    """The attributes in the order of the answer: first those at the top level, then the nested ones."""

    def __init__(self, settings: SchemaSettings) -> None:
        defined = [_attribute(n, s) for n, s in settings.attributes.items() if s is not None]
        self._attributes = tuple(sorted(defined, key=lambda attribute: attribute.nested))

    def __iter__(self) -> Iterator[Attribute]:
        return iter(self._attributes)

    def __len__(self) -> int:
        return len(self._attributes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttributeSchema) and self._attributes == other._attributes

    def __hash__(self) -> int:
        return hash(self._attributes)

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
        """Read back what `to_json` wrote."""
        schema = cls.__new__(cls)
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
        """Return the schema reduced to the attributes with these names."""
        schema = type(self).__new__(type(self))
        schema._attributes = tuple(a for a in self._attributes if a.name in names)
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
        """Return one column per attribute; they are nullable because only the outcome "ok" has values."""
        return [pa.field(f"{prefix}{a.name}", a.arrow_type) for a in self]

    def arrow_confidence_fields(self, prefix: str = "") -> list[pa.Field]:
        """Return one nullable float32 column per attribute: the probability (0..1) of the chosen value."""
        return [pa.field(f"{prefix}confidence_{a.name}", pa.float32()) for a in self]

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

    def __getstate__(self) -> tuple[Attribute, ...]:
        # The cached models are classes created at run time, which can't be pickled.
        return self._attributes

    def __setstate__(self, state: tuple[Attribute, ...]) -> None:
        self._attributes = state

    @cached_property
    def _without(self) -> type[BaseModel]:
        return self.answer_model(reasoning=False)

    @cached_property
    def _with_reasoning(self) -> type[BaseModel]:
        return self.answer_model(reasoning=True)


def _attribute(name: str, settings: AttributeSettings) -> Attribute:
    values: tuple[AttributeValue, ...]
    if settings.type == "category":
        values = settings.values or ()
    elif settings.type == "boolean":
        values = (True, False)
    else:
        values = tuple(range(settings.min or 0, (settings.max or 0) + 1))
    if settings.nullable:
        values = (*values, None)
    ranges = {value: limits for value, limits in (settings.ranges or {}).items() if value in values}
    return Attribute(name, settings.type, values, settings.nested, settings.description, ranges)


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
