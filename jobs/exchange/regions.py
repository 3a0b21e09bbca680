"""What is the same in the regions of all tools: names, values and boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable

from actors.attribute import Attribute, AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.decision import Box
from jobs.exchange.exported import ExportedFrame
from jobs.exchange.seen import Unread

FRAMES_PER_FILE = 1000
"""Frames in one of a tool's files. VIA 2 stays fast up to about as many."""

PERSON = "person"
"""The label, or category, of a region that shows a person."""
PERSON_ID = "person_id"
NOT_A_PERSON = "not_a_person"

_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}


def attribute_id(name: str, schema: AttributeSchema) -> str:
    """Return the name of an attribute in a tool's files. VIA allows no `__` in it."""
    is_taken = "__" in name or name in (PERSON_ID, NOT_A_PERSON)
    return f"attribute-{schema.names.index(name)}" if is_taken else name


def null_text(attribute: Attribute) -> str:
    """Return the text that stands for null, which is none of the attribute's values."""
    text = "null"
    while text in attribute.values:
        text = f"({text})"
    return text


def text_of(value: AttributeValue, attribute: Attribute) -> str:
    """Return a value as text."""
    if value is None:
        return null_text(attribute)
    return str(value).lower() if isinstance(value, bool) else str(value)


def value_of(given: object, attribute: Attribute) -> AttributeValue | Unread:
    """Return the value that a tool's JSON value or text stands for. Nothing, or no text, is null."""
    if given is None or given == "" or given == null_text(attribute):
        return None
    if attribute.type == "category":
        known = str(given) in attribute.values
        return str(given) if known else Unread(str(given), attribute.choices)
    value: AttributeValue = None
    if attribute.type == "boolean":
        value = given if isinstance(given, bool) else _BOOLEANS.get(str(given).strip().lower())
    elif not isinstance(given, bool):
        try:
            number = float(str(given))
        except ValueError:
            number = math.nan
        value = int(number) if number.is_integer() and number in attribute.values else None
    return Unread(str(given), attribute.choices) if value is None else value


def normalised(x: float, y: float, width: float, height: float, frame: ExportedFrame) -> Box:
    """Return a box in pixels as shares of the frame. See `inside` for what is outside of it."""
    return inside((x / frame.width, y / frame.height, (x + width) / frame.width, (y + height) / frame.height))


def inside(box: Box) -> Box:
    """Return the part of a box that is inside the frame, with at least a millionth of the frame's sides.

    Raises:
        ValueError: A side is not a finite number.
    """
    if not all(map(math.isfinite, box)):
        raise ValueError("a box has a side that is not a finite number")
    x1, y1 = (min(max(value, 0.0), 1 - 1e-6) for value in box[:2])
    x2, y2 = (max(min(value, 1.0), low + 1e-6) for value, low in zip(box[2:], (x1, y1), strict=True))
    return (x1, y1, x2, y2)


def around(points: Iterable[tuple[float, float]]) -> tuple[float, float, float, float]:
    """Return x, y, width and height of the rectangle around points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def rotated(
    x: float, y: float, width: float, height: float, degrees: float, centre: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return x, y, width and height of the rectangle around one that is turned clockwise around a point."""
    if not degrees:
        return x, y, width, height
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    cx, cy = centre
    corners = [(x, y), (x + width, y), (x, y + height), (x + width, y + height)]
    return around(
        (cx + (px - cx) * cosine - (py - cy) * sine, cy + (px - cx) * sine + (py - cy) * cosine)
        for px, py in corners
    )
