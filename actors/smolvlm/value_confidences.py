"""How certain a model was of each value, from the tokens that it wrote and those that it could have written.

An engine that writes an answer token by token knows, at each token, the likeliest alternatives. A value is
reached over one or more tokens; at each of them, every alternative leads to some of the allowed values:

    {"gender": "female", ...        values: male, female, unknown
                ^ fem 0.6           leads to female
                  male 0.3          leads to male
                  f 0.05            leads to female, by other tokens
                  ! 0.05            leads to none, and doesn't count

The share of the alternatives that lead where the answer went, among those that lead to any value, is the
probability of this step, and the product of the steps is the confidence. Alternatives that lead to several
values, of which only some are where the answer went, count by the share of these values. Alternatives that
leave all values open, such as a space, don't count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.attribute import Attribute, AttributeValue
from actors.attributes import NESTED_KEY, AttributeSchema
from actors.records import Distribution

_AFTER_A_VALUE = b",} \t\r\n"
_SPACE = " \t\r\n"
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """A token of an answer.

    Attributes:
        text: Its UTF-8 bytes.
        alternatives: The likeliest tokens in its place, including itself, with the natural logarithms of
            their probabilities.
    """

    text: bytes
    alternatives: Sequence[tuple[bytes, float]]


@dataclass(frozen=True, slots=True)
class Certainty:
    """How certain a model was.

    Attributes:
        confidence: Probability (0..1) of the chosen value among the allowed ones, by attribute.
        distribution: Probability of every value of a category or boolean, the likeliest first; only for the
            attributes of which the tokens tell all.
    """

    confidence: dict[str, float]
    distribution: dict[str, Distribution]


def certainty_of(answer: str, tokens: Sequence[WrittenToken], schema: AttributeSchema) -> Certainty:
    """Return how certain a model was of each value.

    Args:
        answer: A valid answer, as JSON.
        tokens: The tokens that its values were written with. There may be others before and after them.
        schema: The attributes.

    Returns:
        The certainty of the attributes for which it can be told; of none if the tokens aren't the answer's.
    """
    certainty = Certainty({}, {})
    written = b"".join(token.text for token in tokens)
    spans = {name: span for name, span in _value_spans(answer) if name in schema.names}
    last = max((stop for _, stop in spans.values()), default=0)
    begin = written.find(answer[:last].encode())
    if begin < 0:
        return certainty
    for attribute in schema:
        if attribute.name not in spans:
            continue
        start, stop = (begin + len(answer[:position].encode()) for position in spans[attribute.name])
        walk = _walk(attribute, written, (start, stop), tokens)
        if walk is None:
            continue
        shares, is_complete = walk
        certainty.confidence[attribute.name] = shares[0][1]
        if is_complete and attribute.type != "integer":
            certainty.distribution[attribute.name] = tuple(
                (value, round(share, _DIGITS))
                for value, share in sorted(shares, key=lambda pair: pair[1], reverse=True)
            )
    return certainty


def _walk(
    attribute: Attribute, written: bytes, span: tuple[int, int], tokens: Sequence[WrittenToken]
) -> tuple[list[tuple[AttributeValue, float]], bool] | None:
    """Return the probability of each value, the chosen one first, and whether these are all and exact.

    Returns None if the value isn't written as the schema writes it.
    """
    start, stop = span
    values = {_text_of(value): value for value in attribute.values}
    chosen = written[start:stop]
    if chosen not in values:
        return None
    if any(value != chosen and value.startswith(chosen) for value in values):
        stop += 1  # what follows "1" tells it from "12"
    shares: dict[bytes, float] = {}
    reach, exact, position = 1.0, True, 0
    for token in tokens:
        here, position = position, position + len(token.text)
        if position <= start or here >= stop:
            continue
        lead, fixed = written[here : max(here, start)], written[start : max(here, start)]
        step = _step(values, lead, fixed, token)
        taken = {value for value in values if _leads_to(fixed + token.text[len(lead) :], value)}
        if step is None:
            continue
        total = sum(step.values())
        if total <= 0:
            return None
        onward = 0.0
        for leads_to, probability in step.items():
            for value in leads_to:
                share = reach * probability / total / len(leads_to)
                if value in taken:
                    onward += share
                else:
                    shares[value] = shares.get(value, 0.0) + share
                    exact = exact and len(leads_to) == 1
        reach = onward
    others = [(values[value], share) for value, share in shares.items() if value != chosen]
    return [(values[chosen], min(1.0, reach)), *others], exact and len(others) == len(values) - 1


def _step(
    values: Mapping[bytes, AttributeValue], lead: bytes, fixed: bytes, token: WrittenToken
) -> dict[frozenset[bytes], float] | None:
    """Return the probability of each set of values to which alternatives lead; None if nothing is decided.

    Args:
        values: All values by their text.
        lead: The part of the token before the value.
        fixed: The part of the value before the token.
        token: The token.
    """
    open_values = frozenset(value for value in values if value.startswith(fixed))
    step: dict[frozenset[bytes], float] = {}
    for text, logarithm in token.alternatives:
        if not text.startswith(lead):
            continue
        reached = fixed + text[len(lead) :]
        leads_to = frozenset(value for value in open_values if _leads_to(reached, value))
        if leads_to and leads_to != open_values:
            step[leads_to] = step.get(leads_to, 0.0) + math.exp(logarithm)
    reached = fixed + token.text[len(lead) :]
    if all(_leads_to(reached, value) for value in open_values):
        return None
    return step


def _leads_to(reached: bytes, value: bytes) -> bool:
    """Return whether a value can be, or already is, what was reached; after it, only JSON may follow."""
    return value.startswith(reached) or (
        reached.startswith(value) and reached[len(value) : len(value) + 1] in _AFTER_A_VALUE
    )


def _text_of(value: AttributeValue) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _value_spans(answer: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name of each attribute, and where its value begins and ends in a valid answer."""
    decode = json.JSONDecoder(strict=False).raw_decode
    position = _skip(answer, answer.index("{") + 1)
    while position < len(answer) and answer[position] == '"':
        name, position = decode(answer, position)
        start = _skip(answer, _skip(answer, position) + 1)
        if name == NESTED_KEY and answer[start] == "{":
            position = _skip(answer, start + 1)
            continue
        _, position = decode(answer, start)
        yield name, (start, position)
        position = _skip(answer, position, f"{_SPACE},}}")


def _skip(text: str, position: int, what: str = _SPACE) -> int:
    while position < len(text) and text[position] in what:
        position += 1
    return position
