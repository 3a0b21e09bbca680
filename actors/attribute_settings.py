"""The `schema` section of the settings, which defines the attributes that every annotator answers."""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, Field, model_validator

from actors.attribute import DISTRIBUTION_PREFIX, Attribute, AttributeType, AttributeValue, Range
from actors.attribute_rules import Rule, parse_rules
from actors.settings_section import Section

_INTEGER_SPAN = 1000
"""Maximum distance between `min` and `max` of an integer, because the guided decoder scores every value."""

_CATEGORY_VALUES = 127
"""Maximum number of values of a category, limited by the int8 index of the dictionary column."""

# fmt: off
_RESERVED = frozenset({
    "shard", "shard_id", "frame", "frame_key", "frame_size", "person_index", "bbox", "score",
    "detection_score", "kept", "drop_reason", "crop", "camera", "captured_at", "width", "height",
    "annotations", "status", "reason", "reasoning", "model", "model_version", "prompt_sha256",
    "confidence", "attributes", "schema_version", "violations", "reuse_group", "reuse_similarity",
})
# fmt: on
"""Names that an attribute can't have, because documents use them as keys or tables as columns."""

_RESERVED_PREFIXES = ("_", "model_", "confidence_", DISTRIBUTION_PREFIX)


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

    def named(self, name: str) -> Attribute:
        """Return the attribute of this name."""
        values: tuple[AttributeValue, ...]
        if self.type == "category":
            values = self.values or ()
        elif self.type == "boolean":
            values = (True, False)
        else:
            values = tuple(range(self.min or 0, (self.max or 0) + 1))
        if self.nullable:
            values = (*values, None)
        ranges = {value: limits for value, limits in (self.ranges or {}).items() if value in values}
        return Attribute(name, self.type, values, self.nested, self.description, ranges)

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


DEFAULT_RULES = (
    "exact_age within age_group",
    "mask implies facing_camera is not null",
    "at most one of hood, headscarf",
)


class SchemaSettings(Section):
    """The attributes that every annotator is asked about."""

    attributes: dict[str, AttributeSettings | None] = Field(
        default_factory=_default_attributes,
        description="Maps the name of an attribute to its definition. null drops an attribute that an "
        "earlier file defined.",
    )
    rules: tuple[str, ...] = Field(
        DEFAULT_RULES,
        description="Rules between attributes. SmolVLM doesn't choose a value that breaks one, and answers "
        "of Gemini are checked: the column `violations` names the rules that an answer breaks. A rule is "
        "`<integer> within <category>` (by the category's ranges), `<condition> implies <condition>`, or `at "
        "most one of <boolean>, <boolean>`. A condition is `<boolean>`, `not <boolean>`, or `<attribute> is "
        "[not] <value>`.",
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        for name, attribute in self.attributes.items():
            if attribute is not None:
                _check_name(name)
        if not any(self.attributes.values()):
            raise ValueError("attributes must define at least one attribute")
        list(self.parsed_rules())
        return self

    def parsed_rules(self) -> Iterator[Rule]:
        """Yield the rules that apply. Those of the default don't where their attributes were replaced.

        Raises:
            ValueError: A rule is wrong.
        """
        attributes = {n: None if s is None else s.named(n) for n, s in self.attributes.items()}
        yield from parse_rules(self.rules, attributes, tolerated=DEFAULT_RULES)


def _check_name(name: str) -> None:
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or len(name) > 64:
        raise ValueError(f"attributes.{name}: use letters, digits and _ as in a Python name")
    taken = name in _RESERVED or name.startswith(_RESERVED_PREFIXES) or hasattr(BaseModel, name)
    if taken:
        raise ValueError(f"attributes.{name}: the name is taken by another column or key; choose another")
