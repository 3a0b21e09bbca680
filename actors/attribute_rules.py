"""Rules of consistency between attributes, as they are written in the settings.

    exact_age within age_group                 the integer lies in the range of the category's value
    mask implies facing_camera is not null     wherever the first condition holds, the second does too
    at most one of hood, headscarf             no two of these booleans are true

A condition is `<boolean>`, `not <boolean>`, `<attribute> is <value>` or `<attribute> is not <value>`, with
null, true, false, an integer, or the text of a category's value.

Every rule is a set of constraints between two attributes each, so a decoder that has chosen the value of one
knows which values of the other remain.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.attribute import Attribute, AttributeValue

_WITHIN = re.compile(r"(\w+) within (\w+)")
_IMPLIES = re.compile(r"(.+?) implies (.+)")
_AT_MOST_ONE = re.compile(r"at most one of (\w+(?:\s*,\s*\w+)+)")
_COMPARED = re.compile(r"(\w+) is (not )?(.+)")
_BOOLEAN = re.compile(r"(not )?(\w+)")

Allowed = Callable[[AttributeValue, AttributeValue], bool]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint between two attributes.

    Attributes:
        first: Name of one attribute.
        second: Name of the other one.
        allowed: Whether a value of the first may stand beside a value of the second.
    """

    first: str
    second: str
    allowed: Allowed


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of consistency.

    Attributes:
        text: The rule as it is written in the settings.
        constraints: What it demands.
    """

    text: str
    constraints: tuple[Constraint, ...]

    def holds(self, values: Mapping[str, AttributeValue]) -> bool:
        """Return whether an answer obeys the rule."""
        return all(c.allowed(values[c.first], values[c.second]) for c in self.constraints)


@dataclass(frozen=True, slots=True)
class _Condition:
    name: str
    value: AttributeValue
    is_negated: bool

    def holds(self, value: AttributeValue) -> bool:
        # True equals 1 in Python, but an attribute has values of one type only.
        return (value == self.value) is not self.is_negated


def parse_rules(
    texts: Sequence[str], attributes: Mapping[str, Attribute | None], tolerated: Sequence[str] = ()
) -> Iterator[Rule]:
    """Yield the rules that apply to some attributes.

    A rule that names a dropped attribute doesn't apply.

    Args:
        texts: The rules as written in the settings.
        attributes: The attributes by name; None for one that was dropped.
        tolerated: Rules that also don't apply where an attribute is missing or of another type.

    Raises:
        ValueError: A rule can't be understood, or names an attribute or a value that doesn't exist.
    """
    for text in texts:
        written = " ".join(text.split())
        names = _names(written)
        unknown = [name for name in names if name not in attributes]
        if unknown and written in tolerated:
            continue
        if unknown:
            raise ValueError(f"rules: {written!r}: there is no attribute {unknown[0]}")
        present = {name: found for name in names if (found := attributes[name]) is not None}
        if len(present) < len(names):
            continue
        try:
            yield Rule(written, tuple(_constraints(written, present)))
        except ValueError as error:
            if written not in tolerated:
                raise ValueError(f"rules: {written!r}: {error}") from None


def _names(text: str) -> list[str]:
    """Return the attributes that a rule names."""
    if found := _AT_MOST_ONE.fullmatch(text):
        return [name.strip() for name in found[1].split(",")]
    if found := _IMPLIES.fullmatch(text):
        return [_name_in(condition, text) for condition in found.groups()]
    if found := _WITHIN.fullmatch(text):
        return list(found.groups())
    raise ValueError(
        f"rules: {text!r} is none of: <integer> within <category>; <condition> implies <condition>; at most "
        "one of <boolean>, <boolean>"
    )


def _name_in(condition: str, rule: str) -> str:
    if found := _COMPARED.fullmatch(condition):
        return str(found[1])
    if found := _BOOLEAN.fullmatch(condition):
        return str(found[2])
    raise ValueError(
        f"rules: {rule!r}: {condition!r} is none of: <boolean>; not <boolean>; <attribute> is [not] <value>"
    )


def _constraints(text: str, attributes: Mapping[str, Attribute]) -> Iterator[Constraint]:
    if _AT_MOST_ONE.fullmatch(text):
        for attribute in attributes.values():
            _check_type(attribute, "boolean")
        for first, second in itertools.combinations(attributes, 2):
            yield Constraint(first, second, _not_both)
    elif found := _IMPLIES.fullmatch(text):
        condition, consequence = (_condition(part, attributes) for part in found.groups())
        yield Constraint(condition.name, consequence.name, _implication(condition, consequence))
    elif found := _WITHIN.fullmatch(text):
        number, group = attributes[found[1]], attributes[found[2]]
        _check_type(number, "integer")
        _check_type(group, "category")
        yield Constraint(group.name, number.name, _inclusion(group))


def _not_both(one: AttributeValue, other: AttributeValue) -> bool:
    return not (one is True and other is True)


def _implication(condition: _Condition, consequence: _Condition) -> Allowed:
    def allowed(first: AttributeValue, second: AttributeValue) -> bool:
        return not condition.holds(first) or consequence.holds(second)

    return allowed


def _inclusion(group: Attribute) -> Allowed:
    def allowed(value: AttributeValue, number: AttributeValue) -> bool:
        lowest, above = group.ranges.get(str(value), (None, None))
        if not isinstance(number, int):
            return True
        return (lowest is None or number >= lowest) and (above is None or number < above)

    return allowed


def _condition(text: str, attributes: Mapping[str, Attribute]) -> _Condition:
    if found := _COMPARED.fullmatch(text):
        attribute = attributes[found[1]]
        return _Condition(attribute.name, _value(found[3], attribute), bool(found[2]))
    found = _BOOLEAN.fullmatch(text)
    assert found is not None
    _check_type(attributes[found[2]], "boolean")
    return _Condition(found[2], not found[1], is_negated=False)


def _value(text: str, attribute: Attribute) -> AttributeValue:
    written = {_written(value): value for value in attribute.values}
    if text not in written:
        raise ValueError(f"{attribute.name} has no value {text}")
    return written[text]


def _written(value: AttributeValue) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_type(attribute: Attribute, wanted: str) -> None:
    if attribute.type != wanted:
        raise ValueError(f"{attribute.name} is of type {attribute.type}, not {wanted}")
