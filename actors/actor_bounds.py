"""The bounds between which the number of a stage's actors follows the work."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_serializer, model_validator

from actors.settings_section import Section


class ActorBounds(Section):
    """How many actors a stage has at least and at most.

    In settings, `auto` stands for one and as many as the cluster can have, and a number for exactly so many.
    """

    min: int = Field(1, ge=1, description="Number of actors that are kept while there is work.")
    max: int | None = Field(
        None, ge=1, description="Maximum number of actors. null stands for as many as the cluster can have."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, given: Any) -> Any:
        if given == "auto":
            return {}
        if isinstance(given, int) and not isinstance(given, bool):
            if given < 1:
                raise ValueError(f"it is {given}: give auto, a number of at least 1, or min and max")
            return {"min": given, "max": given}
        if isinstance(given, dict | cls):
            return given
        raise ValueError(f"it is {given!r}: give auto, a number of at least 1, or min and max")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"min is {self.min} and max is {self.max}: max must not be smaller")
        return self

    @model_serializer
    def _shortest_form(self) -> str | int | dict[str, int | None]:
        if self.min == self.max:
            return self.min
        if self.min == 1 and self.max is None:
            return "auto"
        return {"min": self.min, "max": self.max}

    @property
    def is_fixed(self) -> bool:
        """Whether the number never changes."""
        return self.min == self.max

    def within(self, number: int) -> int:
        """Return the number within the bounds that is closest to the given one."""
        return max(self.min, number if self.max is None else min(number, self.max))


AUTO = ActorBounds()
"""At least one actor, and at most as many as the cluster can have."""

ONE = ActorBounds(min=1, max=1)
"""Exactly one actor."""
