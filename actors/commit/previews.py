"""Draw people and zones on frames, so that users can check zones and results by eye."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from actors.attributes import AttributeSchema
from actors.detect.roi import RoiSettings
from actors.read.frame_decoder import decode_frame
from actors.records import ANSWERED
from actors.shard_block import ShardBlock

_KEPT = (90, 220, 60)
_DROPPED = (170, 170, 170)
_ZONES = {"include": (90, 220, 60), "exclude": (60, 60, 230)}
_WHITE = (255, 255, 255)
_MIN_SIDE_PX = 480
"""Smaller frames are enlarged to this longest side, because labels don't fit on them."""
_MIN_TEXT_PX = 13
_TEXT_SHARE = 0.016
_MAX_LABEL_SHARE = 0.45
_MAX_STEPS_AWAY = 8
_STEP_COST = 0.02
"""What a step away from the box costs, as a share of a hidden person."""
_BACKDROP = 0.35
_JPEG_QUALITY = 88

_Rect = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Boxes:
    """The boxes of all persons of a picture, which every label is compared with.

    Attributes:
        corners: (persons, 4) int64: left, top, right and bottom, in pixels.
        areas: (persons,) int64, in pixels, at least 1.
    """

    corners: np.ndarray
    areas: np.ndarray

    @classmethod
    def of(cls, boxes: Sequence[_Rect]) -> _Boxes:
        corners = _corners(boxes)
        sides = corners[:, 2:] - corners[:, :2]
        return cls(corners, np.maximum(sides[:, 0] * sides[:, 1], 1))


@dataclass(frozen=True, slots=True)
class DrawnPerson:
    """One person to draw.

    Attributes:
        bbox: x1, y1, x2, y2 in shares of the frame.
        label: Lines of text, in any script; "" for no label.
        drop_reason: Why the person was dropped, or None if kept.
    """

    bbox: Sequence[float]
    label: str = ""
    drop_reason: str | None = None


def preview_of_block(
    block: ShardBlock, schema: AttributeSchema, max_side_px: int
) -> Iterator[tuple[str, bytes]]:
    """Yield the key and drawn JPEG of every frame in the block's previews, in the order of keys.

    Args:
        block: A shard with its persons and their annotations.
        schema: The attributes.
        max_side_px: Longest side of a preview, in pixels.
    """
    if block.persons is None:
        return
    keys = sorted(block.previews)
    columns = block.persons.select(["frame_key", "person_index", "bbox", "score", "drop_reason"])
    wanted = set(keys)
    persons: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
    for row in columns.to_pylist():
        if row["frame_key"] in wanted:
            persons[row["frame_key"]].append(row)
    answers: dict[tuple[str, int], list[str]] = {}
    for name, table in block.annotations.items():
        for row in table.to_pylist():
            if row["frame_key"] in wanted:
                said = describe_answer(row, schema)
                line = said if len(block.annotations) == 1 else f"{name}: {said}"
                answers.setdefault((row["frame_key"], row["person_index"]), []).append(line)
    for key in keys:
        drawn = [
            DrawnPerson(
                bbox=row["bbox"],
                label="\n".join(answers.get((key, row["person_index"]), [f"{row['score']:.2f}"])),
                drop_reason=row["drop_reason"],
            )
            for row in persons[key]
        ]
        image = decode_frame(block.previews[key], max_pixels=2**31)
        yield key, draw_persons(image, drawn, max_side_px)


def describe_answer(row: Mapping[str, Any], schema: AttributeSchema) -> str:
    """Describe a person in one line: "male 28 to 38 | glasses, cap?", or the outcome if there is no answer.

    A question mark stands for a boolean that can't be told.

    Args:
        row: A row of an annotations table.
        schema: The attributes.
    """
    if row["status"] not in ANSWERED:
        return str(row["status"])
    first: list[str] = []
    rest: list[str] = []
    for attribute in schema:
        if attribute.name not in row:  # The annotator was asked before the attribute was added.
            continue
        value = row[attribute.name]
        if value is None and attribute.type == "boolean" and attribute.nullable:
            rest.append(f"{attribute.name.replace('_', ' ')}?")
            continue
        if value in (None, False, "unknown"):
            continue
        if attribute.type == "category":
            (rest if attribute.nested else first).append(str(value))
        elif attribute.type == "boolean":
            rest.append(attribute.name.replace("_", " "))
        else:
            rest.append(f"{attribute.name.replace('_', ' ')} {value}")
    return " | ".join(part for part in (" ".join(first), ", ".join(rest)) if part) or "unknown"


def draw_persons(image: np.ndarray, persons: Sequence[DrawnPerson], max_side_px: int) -> bytes:
    """Draw persons on a frame: kept ones in green, dropped ones in grey with a thin line, both with labels.

    Args:
        image: (height, width, 3) uint8, BGR; not modified.
        persons: The persons to draw.
        max_side_px: Longest side of the result, in pixels; small frames are enlarged to fit the labels.

    Returns:
        The drawn frame as a JPEG.
    """
    canvas = _scaled(image, max_side_px)
    height, width = canvas.shape[:2]
    text_px = max(_MIN_TEXT_PX, round(_TEXT_SHARE * max(height, width)))
    line_px = max(1, round(max(height, width) / 500))
    # Kept persons take precedence: their boxes are drawn last, on top, and their labels are placed first.
    for person in sorted(persons, key=lambda p: p.drop_reason is None):
        left, top, right, bottom = _pixels(person.bbox, width, height)
        if person.drop_reason is None:
            cv2.rectangle(canvas, (left, top), (right, bottom), _KEPT, line_px, cv2.LINE_AA)
        else:
            cv2.rectangle(canvas, (left, top), (right, bottom), _DROPPED, 1, cv2.LINE_AA)
    taken: list[_Rect] = []
    people = _Boxes.of([_pixels(person.bbox, width, height) for person in persons])
    for person in sorted(persons, key=lambda p: p.drop_reason is not None):
        text = person.label if person.drop_reason is None else person.drop_reason.replace("_", " ")
        if text:
            colour = _KEPT if person.drop_reason is None else _DROPPED
            box = _pixels(person.bbox, width, height)
            _draw_label(canvas, text, box, colour, text_px=text_px, taken=taken, people=people)
    return _jpeg(canvas)


def draw_zones(image: np.ndarray, settings: RoiSettings, camera: str | None) -> np.ndarray:
    """Return a copy of the frame with the camera's include zones shaded green and its exclude zones red.

    Args:
        image: (height, width, 3) uint8, BGR.
        settings: The zones.
        camera: Camera of the frame; if None (unknown), only zones for all cameras are drawn.

    Returns:
        (height, width, 3) uint8, BGR.
    """
    drawn = image.copy()
    height, width = drawn.shape[:2]
    zones = [zone for zone in settings.static if zone.camera in ("*", camera)]
    line_px = max(2, round(max(height, width) / 400))
    corners = [
        np.round(np.array(zone.outline.exterior.coords) * (width - 1, height - 1)).astype(np.int32)
        for zone in zones
    ]
    for zone, outline in zip(zones, corners, strict=True):
        shaded = drawn.copy()
        cv2.fillPoly(shaded, [outline], _ZONES[zone.mode])
        drawn = cv2.addWeighted(shaded, 0.2, drawn, 0.8, 0)
    for zone, outline in zip(zones, corners, strict=True):
        cv2.polylines(drawn, [outline], True, _ZONES[zone.mode], line_px, cv2.LINE_AA)
    return drawn


def _scaled(image: np.ndarray, max_side_px: int) -> np.ndarray:
    longest = max(image.shape[:2])
    target = min(max_side_px, max(longest, _MIN_SIDE_PX))
    if target == longest:
        return image.copy()
    height, width = (max(1, round(side * target / longest)) for side in image.shape[:2])
    method = cv2.INTER_AREA if target < longest else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def _pixels(bbox: Sequence[float], width: int, height: int) -> _Rect:
    """Return the corners of a box, rounded to whole pixels and clamped to the frame."""
    x1, y1, x2, y2 = bbox
    left, right = (min(max(round(x * (width - 1)), 0), width - 1) for x in (x1, x2))
    top, bottom = (min(max(round(y * (height - 1)), 0), height - 1) for y in (y1, y2))
    return left, top, right, bottom


def _draw_label(
    canvas: np.ndarray,
    text: str,
    box: _Rect,
    colour: tuple[int, int, int],
    *,
    text_px: int,
    taken: list[_Rect],
    people: _Boxes,
) -> None:
    """Draw a label near its box, within the frame and without hiding labels or people if there is room."""
    height, width = canvas.shape[:2]
    font = cv2.FontFace("sans")
    pad, step = max(2, text_px // 4), round(text_px * 1.3)
    lines = _wrapped(text, font, text_px, max(round(width * _MAX_LABEL_SHARE), min(width, 220)) - 3 * pad)
    lines = lines[: max(1, (height - pad) // step)]
    wide = min(width, max(_text_width(line, font, text_px) for line in lines) + 3 * pad)
    high = min(height, len(lines) * step + pad)
    (left, top), hidden = _place(box, (wide, high), (width, height), taken, people)
    if hidden and colour == _DROPPED:
        return  # a drop reason must not hide another label
    taken.append((left, top, left + wide, top + high))
    _lead(canvas, (left, top, left + wide, top + high), box, colour)
    area = canvas[top : top + high, left : left + wide]
    area[:] = (area * _BACKDROP).astype(np.uint8)
    area[:, : max(1, pad // 2)] = colour
    for index, line in enumerate(lines):
        at = (left + round(1.5 * pad), top + round(text_px * 1.05) + index * step)
        cv2.putText(canvas, line, at, _WHITE if colour == _KEPT else _DROPPED, font, text_px, 500)


def _place(
    box: _Rect,
    label: tuple[int, int],
    picture: tuple[int, int],
    taken: Sequence[_Rect],
    people: _Boxes,
) -> tuple[tuple[int, int], int]:
    """Find a place for a label above, below or in its box, or a few label heights away.

    Returns:
        Left and top of the place that hides the least of other labels and people, and the number of pixels
        of other labels that it hides.
    """
    left, top, right, bottom = box
    wide, high = label
    width, height = picture
    shifts = [away * high for away in range(_MAX_STEPS_AWAY)]
    above_below = [(top - high - s, bottom + s, top + s, bottom - high - s) for s in shifts]
    tops = np.array(above_below).ravel().clip(0, height - high)
    lefts = np.array([left, right - wide]).clip(0, width - wide)
    hidden = _hidden(tops, lefts, label, _corners(taken))
    # What counts is the share of each person, or small people would disappear. A long way counts a little.
    shares = _hidden(tops, lefts, label, people.corners, people.areas)
    away = np.repeat(np.arange(_MAX_STEPS_AWAY), len(above_below[0]))[:, None]
    costs = hidden + wide * high * (shares + _STEP_COST * away)
    row, column = divmod(int(costs.argmin()), len(lefts))
    return (int(lefts[column]), int(tops[row])), int(hidden[row, column])


def _corners(rectangles: Sequence[_Rect]) -> np.ndarray:
    """Return the corners of rectangles, (rectangles, 4) int64."""
    return np.array(rectangles, np.int64).reshape(-1, 4)


def _hidden(
    tops: np.ndarray,
    lefts: np.ndarray,
    label: tuple[int, int],
    others: np.ndarray,
    areas: np.ndarray | int = 1,
) -> np.ndarray:
    """Return how much of other rectangles a label would hide at each top and left, (tops, lefts).

    Args:
        tops: (tops,) int, in pixels.
        lefts: (lefts,) int, in pixels.
        label: Width and height of the label, in pixels.
        others: Corners of the other rectangles, (others, 4) int, in pixels.
        areas: In pixels, what hides one of them completely; with 1, the result is in pixels.
    """
    wide, high = label
    # A crowd has hundreds of labels, too many to compare one by one.
    shared_wide = _overlap(lefts, wide, others[:, 0], others[:, 2])
    shared_high = _overlap(tops, high, others[:, 1], others[:, 3])
    hidden: np.ndarray = shared_high @ (shared_wide / areas).T
    return hidden


def _overlap(starts: np.ndarray, length: int, others_start: np.ndarray, others_end: np.ndarray) -> np.ndarray:
    """Return how many pixels each interval shares with each other one, (starts, others) int."""
    begins = starts[:, None]
    shared: np.ndarray = np.minimum(begins + length, others_end) - np.maximum(begins, others_start)
    np.maximum(shared, 0, out=shared)
    return shared


def _lead(canvas: np.ndarray, label: _Rect, box: _Rect, colour: tuple[int, int, int]) -> None:
    """Draw a line from a label to its box if the label was placed away from the box."""
    x = min(max(label[0], box[0]), box[2])
    if label[3] < box[1] - 2:
        cv2.line(canvas, (x, label[3]), (x, box[1]), colour, 1, cv2.LINE_AA)
    elif label[1] > box[3] + 2:
        cv2.line(canvas, (x, box[3]), (x, label[1]), colour, 1, cv2.LINE_AA)


def _wrapped(text: str, font: Any, text_px: int, limit_px: int) -> list[str]:
    """Break the text between words into lines no wider than the limit; a word that is too wide is cut."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _text_width(longer, font, text_px) > limit_px:
                lines.append(line)
                longer = word
            line = longer
            while len(line) > 1 and _text_width(line, font, text_px) > limit_px:
                line = line[:-1]
        lines.append(line)
    return lines


def _text_width(text: str, font: Any, text_px: int) -> int:
    left, _, wide, _ = cv2.getTextSize((1, 1), text, (0, 0), font, text_px, 500)
    return int(left + wide)


def _jpeg(image: np.ndarray) -> bytes:
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return encoded.tobytes()
