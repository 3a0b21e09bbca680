"""What a tool's files say about frames and persons, in a form that is the same for all tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from actors.attribute import AttributeValue
from actors.corrections.decision import Box

MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""Exceptions by which a file shows that it isn't what it should be: not JSON, or JSON of another shape."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A text that is no value of its attribute.

    Attributes:
        text: The text.
        choices: What could have been chosen, in words.
    """

    text: str
    choices: str


@dataclass(frozen=True, slots=True)
class SeenPerson:
    """A region that a tool's file has.

    Attributes:
        person_id: The id that it was exported with; copies repeat it, and drawn regions have none.
        box: Its box, normalised to 0..1.
        values: The values of the attributes that the region has.
        not_a_person: Whether it was marked so.
    """

    person_id: str | None
    box: Box
    values: dict[str, AttributeValue | Unread] = field(default_factory=dict)
    not_a_person: bool = False


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """A frame that a tool's file has.

    Attributes:
        file_name: The name of its file, by which it is known.
        persons: Its regions.
        reviewer: Who has reviewed it, as far as the file says.
        reviewed_at: When it was reviewed, as far as the file says.
        remark: What the user should know about the file, or "".
        is_saved: Whether somebody has saved the file. Otherwise, it is as it was exported.
    """

    file_name: str
    persons: tuple[SeenPerson, ...]
    reviewer: str | None = None
    reviewed_at: datetime | None = None
    remark: str = ""
    is_saved: bool = True
