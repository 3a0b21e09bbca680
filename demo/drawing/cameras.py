"""The demo's four cameras: the view of the empty store, and the size of people at each place in it.

A camera's picture is fixed. Furniture that people can stand behind is kept apart from the background,
together with the row where it meets the floor. A person whose feet are above that row is behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from demo.drawing.people import Colour

FRAME_WIDTH, FRAME_HEIGHT = 960, 540

CAMERA_NAMES = ("entrance", "aisle", "shelves", "till")

FAR_Y, NEAR_Y = 285.0, 520.0
"""Rows of the soles of the farthest and the nearest people."""

_FAR_ADULT_PX, _NEAR_ADULT_PX = 180.0, 320.0

_PRODUCTS: tuple[Colour, ...] = (
    (92, 120, 176), (150, 132, 84), (112, 160, 120), (168, 160, 150), (96, 96, 140), (120, 176, 190),
    (140, 110, 130),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Furniture:
    """A piece of furniture that hides people who stand behind it.

    Attributes:
        picture: (540, 960, 4) uint8, BGR premultiplied by opacity, then opacity. Pixels outside the
            furniture are transparent.
        base_y: Row of the frame where it stands on the floor.
        left: First column.
        right: Last column.
    """

    picture: np.ndarray
    base_y: float
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera of the store.

    Attributes:
        name: Name that the sidecars contain.
        background: (540, 960, 3) uint8 BGR, the store without people and without `furniture`.
        furniture: Furniture that can hide people, from the farthest to the nearest piece.
    """

    name: str
    background: np.ndarray
    furniture: tuple[Furniture, ...]


def adult_height_px(foot_y: float) -> float:
    """Return the height in pixels of an adult whose soles are in the given row; it is linear in the row."""
    share = (foot_y - FAR_Y) / (NEAR_Y - FAR_Y)
    return _FAR_ADULT_PX + share * (_NEAR_ADULT_PX - _FAR_ADULT_PX)


@cache
def camera(name: str) -> Camera:
    """Return the camera with the given name, one of `CAMERA_NAMES`. Its picture is always the same.

    Raises:
        KeyError: No camera has this name.
    """
    background, boxes = _VIEWS[name]
    rng = np.random.default_rng(CAMERA_NAMES.index(name))
    furniture = sorted((_box(rng, *box) for box in boxes), key=lambda piece: piece.base_y)
    return Camera(name, background(rng), tuple(furniture))


def _room(wall: Colour, floor: Colour, horizon_y: int) -> np.ndarray:
    image = np.empty((FRAME_HEIGHT, FRAME_WIDTH, 3), np.uint8)
    image[:horizon_y] = wall
    image[horizon_y:] = floor
    darker = _scaled(floor, 0.88)
    middle = FRAME_WIDTH // 2
    for step in range(-12, 13):
        cv2.line(
            image,
            (middle + step * 60, horizon_y),
            (middle + step * 190, FRAME_HEIGHT),
            darker,
            2,
            cv2.LINE_AA,
        )
    for step in range(1, 9):
        y = horizon_y + round((FRAME_HEIGHT - horizon_y) * (step / 8) ** 1.7)
        cv2.line(image, (0, y), (FRAME_WIDTH, y), darker, 2, cv2.LINE_AA)
    cv2.rectangle(image, (0, horizon_y - 8), (FRAME_WIDTH, horizon_y), _scaled(wall, 0.6), -1)
    return image


def _entrance(rng: np.random.Generator) -> np.ndarray:
    image = _room((178, 186, 190), (150, 160, 168), 215)
    for left in (300, 485):
        cv2.rectangle(image, (left, 20), (left + 175, 214), (96, 88, 80), -1)
        cv2.rectangle(image, (left + 10, 32), (left + 165, 204), (214, 200, 176), -1)
        cv2.line(image, (left + 30, 190), (left + 120, 50), (232, 222, 206), 10, cv2.LINE_AA)
    cv2.fillPoly(image, [np.array([(350, 225), (610, 225), (690, 300), (270, 300)])], (92, 92, 84))
    _shelf(image, rng, 20, 60, 240, 210)
    _shelf(image, rng, 720, 60, 940, 210)
    return image


def _aisle(rng: np.random.Generator) -> np.ndarray:
    image = _room((190, 184, 176), (164, 168, 166), 200)
    cv2.rectangle(image, (360, 40), (600, 192), (150, 156, 150), -1)
    for mirror in (False, True):
        panel = np.zeros((480, 420, 3), np.uint8)
        panel[:] = (120, 124, 128)
        _shelf(panel, rng, 8, 8, 412, 472, rows=5)
        corners = np.array([(0, 0), (330, 60), (330, 235), (0, 430)], np.float32)
        if mirror:
            corners[:, 0] = FRAME_WIDTH - corners[:, 0]
        source = np.array([(0, 0), (420, 0), (420, 480), (0, 480)], np.float32)
        matrix = cv2.getPerspectiveTransform(source, corners)
        size = (FRAME_WIDTH, FRAME_HEIGHT)
        mask = cv2.warpPerspective(np.full((480, 420), 255, np.uint8), matrix, size) > 127
        image[mask] = cv2.warpPerspective(panel, matrix, size)[mask]
    return image


def _shelves(rng: np.random.Generator) -> np.ndarray:
    image = _room((170, 180, 186), (172, 172, 164), 225)
    for left in (10, 250, 490, 730):
        _shelf(image, rng, left, 15, left + 220, 222, rows=4)
    return image


def _till(rng: np.random.Generator) -> np.ndarray:
    image = _room((186, 178, 182), (156, 156, 162), 205)
    cv2.rectangle(image, (60, 30), (330, 150), (104, 116, 104), -1)
    for row in range(3):
        cv2.rectangle(image, (80, 48 + row * 34), (250 - 30 * row, 62 + row * 34), (206, 210, 206), -1)
    _shelf(image, rng, 400, 40, 620, 200)
    cv2.rectangle(image, (690, 20), (900, 204), (112, 104, 98), -1)
    cv2.rectangle(image, (702, 32), (888, 204), (160, 170, 176), -1)
    return image


def _shelf(
    image: np.ndarray, rng: np.random.Generator, left: int, top: int, right: int, bottom: int, rows: int = 3
) -> None:
    cv2.rectangle(image, (left, top), (right, bottom), (104, 108, 112), -1)
    height = (bottom - top) // rows
    for row in range(rows):
        floor = top + (row + 1) * height - 6
        cv2.rectangle(image, (left + 5, floor - height + 12), (right - 5, floor), (66, 70, 74), -1)
        x = left + 9
        while x < right - 28:
            width, tall = int(rng.integers(14, 30)), int(rng.integers(height // 3, height - 14))
            colour = _scaled(_PRODUCTS[rng.integers(len(_PRODUCTS))], float(rng.uniform(0.75, 1.1)))
            cv2.rectangle(image, (x, floor - tall), (min(x + width, right - 9), floor), colour, -1)
            label = floor - tall // 2
            cv2.rectangle(
                image, (x + 3, label - 4), (min(x + width, right - 9) - 3, label + 4), (190, 194, 196), -1
            )
            x += width + 4


def _box(
    rng: np.random.Generator, left: int, right: int, base_y: int, height: int, colour: Colour
) -> Furniture:
    """Draw a counter or a low shelf: a front with goods or panels on it, and a lighter top."""
    picture = np.zeros((FRAME_HEIGHT, FRAME_WIDTH, 4), np.uint8)
    top, depth = base_y - height, round(height * 0.16)
    inset = depth if left > 0 else 0
    lid = np.array([(left + inset, top), (right - depth, top), (right, top + depth), (left, top + depth)])
    cv2.rectangle(picture, (left, top + depth), (right, base_y), (*colour, 255), -1)
    front = picture[:, :, :3].copy()
    if base_y - top - depth > 60:
        _shelf(front, rng, left + 6, top + depth + 8, right - 6, base_y - 12, rows=1)
    picture[:, :, :3] = front
    cv2.fillPoly(picture, [lid], (*_scaled(colour, 1.35), 255))
    cv2.rectangle(picture, (left, base_y - 10), (right, base_y), (*_scaled(colour, 0.5), 255), -1)
    cv2.rectangle(picture, (left, top + depth), (right, base_y), (52, 48, 46, 255), 2)
    return Furniture(picture, float(base_y), left, right)


def _scaled(colour: Colour, factor: float) -> Colour:
    blue, green, red = (min(255, round(value * factor)) for value in colour)
    return blue, green, red


_VIEWS: dict[
    str, tuple[Callable[[np.random.Generator], np.ndarray], tuple[tuple[int, int, int, int, Colour], ...]]
] = {
    "entrance": (_entrance, ((20, 250, 370, 105, (120, 140, 150)), (650, 920, 470, 150, (128, 112, 100)))),
    "aisle": (_aisle, ((395, 590, 345, 90, (110, 130, 140)), (90, 330, 500, 165, (134, 124, 110)))),
    "shelves": (_shelves, ((90, 400, 375, 108, (132, 132, 124)), (560, 890, 470, 150, (112, 126, 138)))),
    "till": (_till, ((60, 360, 455, 145, (120, 124, 136)), (600, 900, 380, 110, (104, 118, 126)))),
}
