"""One attribute of a person, in the form that the code uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

AttributeType = Literal["category", "boolean", "integer"]
AttributeValue = bool | int | str | None

DISTRIBUTION_PREFIX = "distribution_"
"""Beginning of the names of columns with the probabilities of an attribute's values."""

Range = tuple[int | None, int | None]
"""The integers from the first number up to, but not including, the second; None is no limit."""


def same_value(one: AttributeValue | float, other: AttributeValue) -> bool:
    """Return whether two values are the same. True is 1 for Python, but no number of an attribute."""
    return type(one) is type(other) and one == other


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute.

    Attributes:
        name: Key in answers, and name of the column.
        type: Type of the value.
        values: All allowed values, in order; None comes last if it is allowed.
        nested: Whether it is under "attributes" in JSON.
        description: Its meaning for the prompt, or "".
        ranges: The integers that values of a category stand for.
    """

    name: str
    type: AttributeType
    values: tuple[AttributeValue, ...]
    nested: bool
    description: str
    ranges: Mapping[str, Range] = field(default_factory=dict, hash=False)

    @property
    def nullable(self) -> bool:
        """Whether null is an allowed answer."""
        return None in self.values

    @property
    def arrow_type(self) -> pa.DataType:
        """The type of its column: dictionary<int8, string>, bool or int16."""
        return pa.dictionary(pa.int8(), pa.string()) if self.type == "category" else self.plain_arrow_type

    @property
    def plain_arrow_type(self) -> pa.DataType:
        """The type of one value without a dictionary: string, bool or int16."""
        return {"category": pa.string(), "boolean": pa.bool_(), "integer": pa.int16()}[self.type]

    @property
    def python_type(self) -> Any:
        """The type annotation for the pydantic model, which doesn't coerce between types."""
        if self.type == "category":
            return Literal[self.values]
        kind: Any = Annotated[bool, Field(strict=True)]
        if self.type == "integer":
            kind = Annotated[int, Field(strict=True, ge=self.values[0], le=self._largest)]
        return kind | None if self.nullable else kind

    def prompt_line(self) -> str:
        """Return one line of the prompt: the name, the allowed values and the meaning."""
        if self.type == "category":
            allowed = "one of " + ", ".join(self._prompt_value(str(value)) for value in self.values)
        elif self.type == "boolean":
            allowed = "true, false or null" if self.nullable else "true or false"
        else:
            allowed = f"an integer from {self.values[0]} to {self._largest}" + self.nullable * ", or null"
        meaning = f" ({self.description})" if self.description else ""
        return f'"{self.name}": {allowed}{meaning}'

    @property
    def choices(self) -> str:
        """What a person may choose, in words, such as "male, female or unknown"."""
        if self.type == "integer":
            found = [f"a whole number from {self.values[0]} to {self._largest}"]
        else:
            found = [
                str(value).lower() if isinstance(value, bool) else str(value)
                for value in self.values
                if value is not None
            ]
        found += ["nothing"] * self.nullable
        return " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)

    def _prompt_value(self, value: str) -> str:
        quoted = json.dumps(value, ensure_ascii=False)
        lowest, above = self.ranges.get(value, (None, None))
        limits = [f"at least {lowest}"] if lowest is not None else []
        limits += [f"under {above}"] if above is not None else []
        meaning = ", ".join(limits)
        # "under 18" needs no explanation.
        return quoted if meaning in ("", value) else f"{quoted} ({meaning})"

    @property
    def _largest(self) -> AttributeValue:
        return self.values[-2] if self.nullable else self.values[-1]
