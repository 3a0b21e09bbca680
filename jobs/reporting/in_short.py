"""What a reader wants to know first: who is in the pictures, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.evaluation.estimates import Estimate
from jobs.evaluation.share_of_output import ValueShare
from jobs.reporting.measures import Shares, label

_VALUES = 8
_UNKNOWN = "can't tell"
_NONE = "no value"


@dataclass(frozen=True, slots=True)
class Part:
    """How many persons in frames have a value.

    Attributes:
        value: The value, in words.
        share: Their share.
        number: Their number.
    """

    value: str
    share: Estimate
    number: Estimate


@dataclass(frozen=True, slots=True)
class Answer:
    """The shares of an attribute, in a few lines.

    Attributes:
        name: The attribute.
        parts: Its values with their shares and numbers, the frequent first.
        persons: Persons in frames among whom these are shares.
        decided: Persons that were drawn at random and decided.
        is_guess: Whether there is no interval, so that the shares are the models' guess.
        outside: Persons that could not be drawn.
        drawn_among: Among whom the others were drawn, in words.
        right: By annotator, how often its answers were right against a table of the truth, if one was
            compared: share, low and high.
    """

    name: str
    parts: tuple[Part, ...]
    persons: int
    decided: int
    is_guess: bool
    outside: int
    drawn_among: str
    right: Mapping[str, Mapping[str, float]]


def in_short(
    shares: Sequence[Shares],
    sure: Mapping[str, Any],
    compared: Mapping[str, Any] | None,
    categories: Sequence[str],
) -> list[Answer]:
    """Return an answer for each attribute with named values.

    Args:
        shares: Counts of final values.
        sure: What the section How sure shows.
        compared: The last comparison with a table of the truth.
        categories: The attributes.
    """
    found = []
    for one in shares:
        if one.name not in categories:
            continue
        judged: Sequence[ValueShare] = sure["shares"].get(one.name, ())
        estimated = [value for value in judged if value.estimate.low is not None]
        if estimated:
            parts = [
                Part(_UNKNOWN if v.value is None else label(v.value), v.estimate, v.number) for v in estimated
            ]
            persons = sure["persons"]
        else:
            parts = [
                Part(_NONE if name == label(None) else name, _guess(share.share), _guess(share.hits))
                for name, share in one.values
            ]
            persons = sum(share.hits for _, share in one.values)
        parts.sort(key=lambda part: -(part.share.value or 0))
        decided = max((value.estimate.n for value in judged), default=0)
        right = {
            annotator: attributes[one.name]["accuracy"]
            for annotator, attributes in (compared or {}).get("annotators", {}).items()
            if one.name in attributes and attributes[one.name]["accuracy"]["low"] is not None
        }
        found.append(
            Answer(
                one.name,
                tuple(parts[:_VALUES]),
                persons,
                decided,
                not estimated,
                sure["outside"].get(one.name, 0),
                sure["drawn_among"].get(one.name, ""),
                right,
            )
        )
    return found


def _guess(number: float | None) -> Estimate:
    return Estimate(number, None, None, 0)
