"""A small picture with transparency, in which shapes are drawn in a figure's own coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from demo.drawing.people import Colour

Point = tuple[float, float]

INK: Colour = (34, 26, 24)
"""Colour of outlines."""

_OUTLINE = 0.011
_SUPERSAMPLING = 2
_SHIFT = 4
"""Fractional bits of coordinates: OpenCV is given them in 1/16 of a pixel."""


class Canvas:
    """A picture with transparency to draw in. The unit of its coordinates is the figure's height.

    x is 0 on the figure's axis and grows to the right; y is 0 at the top of the head and 1 at the
    soles. Shapes are drawn at twice the size with OpenCV's anti-aliasing, and the result is reduced.
    """

    def __init__(
        self,
        unit_px: float,
        left: float = -0.36,
        right: float = 0.36,
        top: float = -0.12,
        bottom: float = 1.05,
    ) -> None:
        self._scale = unit_px * _SUPERSAMPLING
        self._corner = (left, top)
        self._size = (round((right - left) * unit_px), round((bottom - top) * unit_px))
        width, height = self._size
        self._pixels = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING, 4), np.uint8)

    def polygon(self, points: Sequence[Point], colour: Colour, outline: bool = True) -> None:
        """Draw a filled polygon."""
        corners = self._fixed(points)
        cv2.fillPoly(self._pixels, [corners], (*colour, 255), cv2.LINE_AA, _SHIFT)
        if outline:
            thickness = self._thickness(_OUTLINE)
            cv2.polylines(self._pixels, [corners], True, (*INK, 255), thickness, cv2.LINE_AA, _SHIFT)

    def ellipse(
        self,
        centre: Point,
        radii: Point,
        colour: Colour,
        outline: bool = True,
        angles: tuple[float, float] = (0, 360),
    ) -> None:
        """Draw a filled ellipse, or its part between two angles in degrees, clockwise from the right."""
        points = cv2.ellipse2Poly((0, 0), (1000, 1000), 0, round(angles[0]), round(angles[1]), 6)
        self.polygon(
            [(centre[0] + x / 1000 * radii[0], centre[1] + y / 1000 * radii[1]) for x, y in points],
            colour,
            outline,
        )

    def line(self, points: Sequence[Point], colour: Colour, width: float, outline: bool = False) -> None:
        """Draw an open line with round ends. An outline adds to the width on both sides."""
        fixed = self._fixed(points)
        if outline:
            thickness = self._thickness(width + 2 * _OUTLINE)
            cv2.polylines(self._pixels, [fixed], False, (*INK, 255), thickness, cv2.LINE_AA, _SHIFT)
        thickness = self._thickness(width)
        cv2.polylines(self._pixels, [fixed], False, (*colour, 255), thickness, cv2.LINE_AA, _SHIFT)

    def picture(self) -> np.ndarray:
        """Return the drawing: (height, width, 4) uint8, BGR premultiplied by opacity, then opacity."""
        return np.asarray(cv2.resize(self._pixels, self._size, interpolation=cv2.INTER_AREA))

    def _fixed(self, points: Sequence[Point]) -> np.ndarray:
        moved = (np.array(points, np.float64) - self._corner) * self._scale
        fixed: np.ndarray = np.rint(moved * 2**_SHIFT).astype(np.int32)
        return fixed

    def _thickness(self, width: float) -> int:
        return max(1, round(width * self._scale))


def mirrored(right_half: Sequence[Point]) -> list[Point]:
    """Return a symmetric polygon from the corners of its right half, which run from top to bottom."""
    return [*right_half, *((-x, y) for x, y in reversed(right_half))]
