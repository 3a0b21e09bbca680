"""How persons were drawn at random, so that decisions about them can stand for others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Operator = Literal["=", "!=", "<", "<=", ">", ">="]


class Comparison(BaseModel):
    """A comparison of a column of persons with a value or with another column.

    Attributes:
        column: The column.
        operator: How they are compared.
        value: The value as text, or None for no value.
        other: The other column. Without it, the comparison is with the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str = Field(min_length=1, max_length=200)
    operator: Operator = "="
    value: str | None = None
    other: str | None = None

    @model_validator(mode="after")
    def _has_one_side(self) -> Self:
        if self.other is not None and self.value is not None:
            raise ValueError("a comparison is with a value or with another column")
        return self

    def __str__(self) -> str:
        right = self.other if self.other is not None else "null" if self.value is None else self.value
        return f"{self.column}{self.operator}{right}"


Among = tuple[tuple[Comparison, ...], ...]
"""Conditions that all hold for the persons among whom was drawn. Of the comparisons of one, one holds."""

EVERYBODY: Among = ()


def among(conditions: Iterable[Iterable[Comparison]]) -> Among:
    """Return conditions in an order that doesn't depend on the order in which they are given."""
    return tuple(sorted({tuple(sorted(set(one), key=str)) for one in conditions}, key=str))


def compared_columns(conditions: Among) -> set[str]:
    """Return the columns that conditions are about."""
    return {name for every in conditions for one in every for name in (one.column, one.other) if name}


def in_words(conditions: Among) -> str:
    """Return among whom was drawn, such as `camera=till or camera=door, hour>=9`."""
    return ", ".join(" or ".join(map(str, one)) for one in conditions) or "everybody"


class Draw(BaseModel):
    """A random draw of persons, each with the same probability.

    Two decisions with an equal draw are about persons of one sample, which may have been enlarged between
    them. Persons of different draws were drawn independently of each other.

    Attributes:
        name: Name of the draw.
        among: The conditions on the persons among whom was drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    among: Among = EVERYBODY
