"""Draw a figure's head, from the front and from behind: hair, face, headgear, mask and glasses."""

from __future__ import annotations

from demo.drawing.canvas import INK, Canvas, mirrored
from demo.drawing.people import Appearance, Colour, age_colour

_WHITE: Colour = (245, 245, 245)
_LENS: Colour = (250, 246, 214)
_LIPS: Colour = (70, 60, 190)
_HEAD = (0.0, 0.155)
_HEAD_RADII = (0.125, 0.145)
_EYES_Y = 0.165
_EYE_X = 0.056


def draw_long_hair(canvas: Canvas, person: Appearance) -> None:
    """Draw long hair, which lies behind the head, on female figures that wear no headscarf."""
    if person.gender == "female" and person.headgear != "headscarf":
        canvas.polygon(
            mirrored([(0.10, 0.02), (0.16, 0.12), (0.185, 0.44), (0.11, 0.47), (0.08, 0.36)]),
            person.hair,
        )


def draw_head(canvas: Canvas, person: Appearance, facing: bool) -> None:
    """Draw the head and everything worn on it."""
    if facing:
        _draw_front(canvas, person)
    else:
        _draw_back(canvas, person)
    _draw_mask(canvas, person, facing)
    if person.glasses:
        _draw_glasses(canvas, facing)


def _draw_front(canvas: Canvas, person: Appearance) -> None:
    if person.headgear == "hood":
        _draw_hood(canvas, person)
        canvas.ellipse(_HEAD, (0.128, 0.148), age_colour(person.age))
        canvas.ellipse((0, 0.165), (0.102, 0.122), person.skin)
    elif person.headgear == "headscarf":
        _draw_headscarf(canvas, person, facing=True)
        canvas.ellipse((0, 0.165), (0.114, 0.132), age_colour(person.age))
        canvas.ellipse((0, 0.17), (0.098, 0.116), person.skin)
    else:
        for side in (-1, 1):
            canvas.ellipse((side * 0.125, 0.17), (0.025, 0.032), person.skin)
        canvas.ellipse(_HEAD, _HEAD_RADII, person.skin)
        canvas.ellipse((0, 0.13), (0.132, 0.13), person.hair, angles=(192, 348))
        if person.gender == "female":
            for side in (-1, 1):
                canvas.polygon([(side * 0.09, 0.04), (side * 0.135, 0.10), (side * 0.125, 0.27)], person.hair)
    _draw_face(canvas)
    if person.headgear == "cap":
        _draw_cap(canvas, person, facing=True)


def _draw_back(canvas: Canvas, person: Appearance) -> None:
    if person.headgear == "hood":
        _draw_hood(canvas, person)
        canvas.line([(0, -0.06), (0, 0.30)], INK, 0.012)
        canvas.line([(-0.15, 0.30), (0, 0.335), (0.15, 0.30)], age_colour(person.age), 0.035, outline=True)
    elif person.headgear == "headscarf":
        _draw_headscarf(canvas, person, facing=False)
    else:
        for side in (-1, 1):
            canvas.ellipse((side * 0.125, 0.17), (0.025, 0.032), person.skin)
        canvas.polygon([(-0.06, 0.27), (0.06, 0.27), (0.06, 0.335), (-0.06, 0.335)], person.skin)
        canvas.ellipse(_HEAD, _HEAD_RADII, person.hair)
        if person.headgear == "cap":
            _draw_cap(canvas, person, facing=False)


def _draw_face(canvas: Canvas) -> None:
    for side in (-1, 1):
        canvas.ellipse((side * _EYE_X, _EYES_Y), (0.032, 0.036), _WHITE)
        canvas.ellipse((side * _EYE_X, _EYES_Y + 0.004), (0.017, 0.024), INK, outline=False)
    canvas.line([(-0.04, 0.24), (0, 0.25), (0.04, 0.24)], _LIPS, 0.022)


def _draw_cap(canvas: Canvas, person: Appearance, facing: bool) -> None:
    trim = age_colour(person.age)
    canvas.ellipse((0, 0.10), (0.142, 0.15), person.headgear_colour, angles=(180, 360))
    if facing:
        canvas.ellipse((0, 0.105), (0.20, 0.038), trim)
    else:
        canvas.line([(-0.135, 0.10), (0.135, 0.10)], trim, 0.04, outline=True)
        canvas.ellipse((0, -0.045), (0.02, 0.02), trim)


def _draw_hood(canvas: Canvas, person: Appearance) -> None:
    outer = [(0, -0.095), (0.075, -0.02), (0.15, 0.08), (0.17, 0.20), (0.16, 0.30), (0.10, 0.345)]
    canvas.polygon(mirrored(outer), person.headgear_colour)


def _draw_headscarf(canvas: Canvas, person: Appearance, facing: bool) -> None:
    trim = age_colour(person.age)
    drape = 0.42 if facing else 0.50
    canvas.polygon([(-0.14, 0.18), (0.14, 0.18), (0.175, 0.40), (0, drape), (-0.175, 0.40)], trim)
    canvas.polygon(
        [(-0.14, 0.18), (0.14, 0.18), (0.16, 0.37), (0, drape - 0.045), (-0.16, 0.37)],
        person.headgear_colour,
        outline=False,
    )
    canvas.ellipse(_HEAD, (0.148, 0.165), person.headgear_colour)
    dots = [(-0.125, 0.10), (0.125, 0.10), (-0.06, 0.02), (0.06, 0.02), (-0.12, 0.29), (0.12, 0.29)]
    dots += [(-0.06, 0.34), (0.06, 0.34)]
    if not facing:
        dots += [(0, 0.10), (-0.08, 0.20), (0.08, 0.20), (0, 0.27), (0, 0.40)]
    for dot in dots:
        canvas.ellipse(dot, (0.02, 0.02), _WHITE, outline=False)


def _draw_mask(canvas: Canvas, person: Appearance, facing: bool) -> None:
    if not person.mask:
        return
    if facing:
        for side in (-1, 1):
            canvas.line([(side * 0.09, 0.215), (side * 0.13, 0.17)], person.mask_colour, 0.016)
        canvas.polygon(
            [(-0.10, 0.205), (0, 0.19), (0.10, 0.205), (0.085, 0.285), (0, 0.315), (-0.085, 0.285)],
            person.mask_colour,
        )
        for y in (0.235, 0.265):
            canvas.line([(-0.075, y), (0.075, y)], (190, 180, 170), 0.008)
        return
    for y in (0.215, 0.27):
        canvas.line([(-0.13, y - 0.015), (0, y), (0.13, y - 0.015)], person.mask_colour, 0.026, outline=True)
    for side in (-1, 1):
        canvas.ellipse((side * 0.035, 0.243), (0.034, 0.024), person.mask_colour)


def _draw_glasses(canvas: Canvas, facing: bool) -> None:
    if facing:
        canvas.line([(-0.135, _EYES_Y - 0.01), (0.135, _EYES_Y - 0.01)], INK, 0.024)
        for side in (-1, 1):
            canvas.ellipse((side * 0.06, _EYES_Y), (0.058, 0.052), INK)
            canvas.ellipse((side * 0.06, _EYES_Y), (0.039, 0.033), _LENS, outline=False)
            canvas.ellipse((side * _EYE_X, _EYES_Y), (0.013, 0.018), INK, outline=False)
        return
    canvas.line([(-0.14, 0.15), (0.14, 0.15)], _LENS, 0.062)
    canvas.line([(-0.145, 0.15), (0.145, 0.15)], INK, 0.034)
