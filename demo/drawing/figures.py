"""Draw a person: this module draws body and clothes, `heads.py` draws the head.

The drawing follows the conventions stated in `people.py`. The proportions are those of a cartoon: the
head takes more than a quarter of the height.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo.drawing.canvas import INK, Canvas, Point, mirrored
from demo.drawing.heads import draw_head, draw_long_hair
from demo.drawing.people import Appearance, Colour, age_colour

FIGURE_TOP, FIGURE_SIDE, FIGURE_BOTTOM = -0.12, 0.36, 1.05
"""Edges of a figure's picture in the canvas's units: top, distance of each side from the axis, bottom."""

HEAD_BOTTOM = 0.31
"""Position of the chin, as a share of the figure's own height."""

_WHITE: Colour = (245, 245, 245)
_GLOVE: Colour = (60, 52, 48)
_SANDAL: Colour = (60, 96, 150)


@dataclass(frozen=True, slots=True)
class Pose:
    """How a figure stands in one frame.

    Attributes:
        facing: Whether the face is turned to the camera.
        stride: Which leg is ahead and how far, from -1 to 1.
    """

    facing: bool
    stride: float


def draw_figure(person: Appearance, pose: Pose, adult_px: float) -> np.ndarray:
    """Draw one person.

    Args:
        person: What the person looks like.
        pose: How the person stands.
        adult_px: Height of an adult at this place, in pixels; the person is `stature` times as tall.

    Returns:
        (height, width, 4) uint8, BGR premultiplied by opacity, then opacity. The picture is
        FIGURE_BOTTOM - FIGURE_TOP times as high as the person. The point between the soles is in the
        middle of its width, and 1 - FIGURE_TOP times the person's height below its top.
    """
    unit_px = adult_px * person.stature
    canvas = Canvas(unit_px, -FIGURE_SIDE, FIGURE_SIDE, FIGURE_TOP, FIGURE_BOTTOM)
    if pose.facing:
        draw_long_hair(canvas, person)
    _draw_legs(canvas, person, pose.stride)
    _draw_arms(canvas, person, pose.stride)
    _draw_torso(canvas, person)
    if person.season == "winter":
        _draw_scarf(canvas, pose.facing)
    if not pose.facing:
        draw_long_hair(canvas, person)
    draw_head(canvas, person, pose.facing)
    return canvas.picture()


def _draw_legs(canvas: Canvas, person: Appearance, stride: float) -> None:
    age = age_colour(person.age)
    for side in (-1, 1):
        lift = 0.025 * side * stride
        hip, foot = (side * 0.06, 0.62), (side * 0.085, 0.955 - abs(lift) + lift)
        if person.season == "winter":
            canvas.line([hip, foot], age, 0.10, outline=True)
            foot = (foot[0], foot[1] - 0.02)
            ankle = (foot[0], foot[1] - 0.06)
            canvas.line([ankle, foot], INK, 0.125, outline=True)
            canvas.line(
                [(ankle[0] - 0.05, ankle[1] - 0.02), (ankle[0] + 0.05, ankle[1] - 0.02)], _WHITE, 0.035
            )
        else:
            canvas.line([hip, foot], person.skin, 0.075, outline=True)
            canvas.line([(foot[0] - 0.02, foot[1] + 0.01), (foot[0] + 0.02, foot[1] + 0.01)], _SANDAL, 0.05)


def _draw_arms(canvas: Canvas, person: Appearance, stride: float) -> None:
    shoulder_x = 0.125 if person.gender == "male" else 0.095
    for side in (-1, 1):
        swing = 0.03 * side * stride
        shoulder: Point = (side * shoulder_x, 0.365)
        elbow: Point = (side * (shoulder_x + 0.055), 0.46)
        hand: Point = (side * (shoulder_x + 0.085), 0.60 + swing)
        if person.season == "winter":
            canvas.line([shoulder, elbow, hand], person.clothes, 0.095, outline=True)
            cuff = (hand[0], hand[1] - 0.03)
            canvas.line([(cuff[0] - 0.045, cuff[1]), (cuff[0] + 0.045, cuff[1])], _WHITE, 0.04)
            canvas.ellipse((hand[0], hand[1] + 0.02), (0.042, 0.04), _GLOVE)
        else:
            canvas.line([shoulder, elbow, hand], person.skin, 0.06, outline=True)
            canvas.line([shoulder, (side * (shoulder_x + 0.035), 0.42)], person.clothes, 0.085, outline=True)


def _draw_torso(canvas: Canvas, person: Appearance) -> None:
    winter, age = person.season == "winter", age_colour(person.age)
    hem = 0.76 if winter else 0.62
    if person.gender == "male":
        canvas.polygon([(-0.15, 0.33), (0.15, 0.33), (0.145, hem), (-0.145, hem)], person.clothes)
        if not winter:
            _draw_shorts(canvas, age)
        for y in (0.40, 0.475):
            canvas.polygon([(-0.143, y), (0.143, y), (0.143, y + 0.035), (-0.143, y + 0.035)], _WHITE, False)
        hem_x = 0.15
    else:
        hem, hem_x = hem + 0.04, 0.215
        waist, skirt = (0.09, 0.47), (0.115, 0.53)
        outer = [(0.10, 0.33), waist, skirt, (hem_x, hem)]
        canvas.polygon(mirrored(outer), person.clothes)
        if not winter:
            canvas.polygon(mirrored([skirt, (hem_x, hem)]), age)
        # The buttons are beside the sash, which would hide them.
        for button in ((0.055, 0.38), (0.06, 0.44), (-0.045, 0.47), (-0.045, 0.53), (-0.045, 0.59)):
            canvas.ellipse(button, (0.02, 0.02), _WHITE)
    if winter:
        canvas.polygon(mirrored([(hem_x, hem - 0.05), (hem_x + 0.005, hem)]), _WHITE)
    canvas.polygon([(-0.12, 0.335), (-0.02, 0.335), (0.115, 0.56), (0.115, 0.63), (0.06, 0.63)], age)


def _draw_shorts(canvas: Canvas, colour: Colour) -> None:
    canvas.polygon(
        [(-0.145, 0.60), (0.145, 0.60), (0.15, 0.76), (0.02, 0.76), (0, 0.69), (-0.02, 0.76), (-0.15, 0.76)],
        colour,
    )


def _draw_scarf(canvas: Canvas, facing: bool) -> None:
    stripes = 8
    for number in range(stripes):
        left = -0.12 + 0.24 * number / stripes
        right = left + 0.24 / stripes
        colour = _WHITE if number % 2 else INK
        canvas.polygon([(left, 0.285), (right, 0.285), (right, 0.36), (left, 0.36)], colour, False)
    if facing:
        for number in range(4):
            top = 0.35 + 0.03 * number
            colour = _WHITE if number % 2 else INK
            canvas.polygon(
                [(0.05, top), (0.105, top), (0.105, top + 0.03), (0.05, top + 0.03)], colour, False
            )
