"""Paint people into a camera's picture, farthest first, and measure how much of each remains visible."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import cast

import cv2
import numpy as np

from demo.drawing.cameras import FRAME_HEIGHT, FRAME_WIDTH, Camera, adult_height_px
from demo.drawing.episodes import Episode, Standing
from demo.drawing.figures import FIGURE_BOTTOM, FIGURE_TOP, HEAD_BOTTOM, draw_figure

OCCLUDED_BELOW = 0.8
"""A person counts as occluded if the visible share of the figure is smaller than this."""

_LEAST_VISIBLE = 0.42
_DOUBTFUL = (0.76, 0.90)
_LEAST_HEAD = 0.93
"""A person is left out of a frame if a smaller share of the body or head would be visible, or a share in
the doubtful range around `OCCLUDED_BELOW`. This way, everything that the truth states can be seen."""

_OPAQUE = 128


@dataclass(frozen=True, slots=True)
class Placed:
    """One person of a frame.

    Attributes:
        standing: The person and their place.
        mask: (540, 960) bool, the pixels of the frame that show the person.
        visible: Visible pixels as a share of all pixels of the figure, including those outside the frame.
    """

    standing: Standing
    mask: np.ndarray
    visible: float


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A picture to paint into the frame; its top left corner is at (left, top)."""

    depth_y: float
    left: int
    top: int
    picture: np.ndarray
    standing: Standing | None
    size_px: int
    head_rows: int


def compose(episode: Episode, step: int, rng: np.random.Generator) -> tuple[np.ndarray, tuple[Placed, ...]]:
    """Draw one frame.

    Args:
        episode: The episode that the frame belongs to.
        step: Position of the frame in the episode, counted from 0.
        rng: Source of randomness for light, noise and compression.

    Returns:
        The frame, (540, 960, 3) uint8 BGR, and the people in it from the nearest to the farthest.
    """
    furniture = [_furniture_layer(piece.picture, piece.base_y) for piece in episode.camera.furniture]
    people = [_person_layer(standing) for standing in episode.frames[step]]
    while True:
        layers = sorted([*furniture, *people], key=lambda layer: layer.depth_y)
        placed, unfit = _look(layers)
        if unfit is None:
            break
        people.remove(unfit)
    image = _paint(episode.camera, layers)
    return _develop(image, episode, rng), tuple(placed)


def _furniture_layer(picture: np.ndarray, base_y: float) -> _Layer:
    left, top, width, height = cv2.boundingRect(picture[:, :, 3])
    return _Layer(base_y, left, top, picture[top : top + height, left : left + width], None, 0, 0)


def _person_layer(standing: Standing) -> _Layer:
    picture = draw_figure(standing.appearance, standing.pose, adult_height_px(standing.foot_y))
    height, width = picture.shape[:2]
    unit_px = height / (FIGURE_BOTTOM - FIGURE_TOP)
    left = round(standing.foot_x - width / 2)
    top = round(standing.foot_y - (1 - FIGURE_TOP) * unit_px)
    opaque = int(np.count_nonzero(picture[:, :, 3] >= _OPAQUE))
    return _Layer(
        standing.foot_y, left, top, picture, standing, opaque, round((HEAD_BOTTOM - FIGURE_TOP) * unit_px)
    )


def _look(layers: list[_Layer]) -> tuple[list[Placed], _Layer | None]:
    """Return the people from the nearest to the farthest, and the first layer that doesn't fit, if any.

    A person doesn't fit if the truth about them could not be seen (see `_LEAST_HEAD`). The search stops
    there.
    """
    covered = np.zeros((FRAME_HEIGHT, FRAME_WIDTH), bool)
    found: list[Placed] = []
    for layer in reversed(layers):
        window, inside = _windows(layer)
        opaque = layer.picture[inside][:, :, 3] >= _OPAQUE
        if layer.standing is not None:
            shown = opaque & ~covered[window]
            visible = float(np.count_nonzero(shown)) / layer.size_px
            head_px = np.count_nonzero(layer.picture[: layer.head_rows, :, 3] >= _OPAQUE)
            head_shown = np.count_nonzero(shown[: max(0, layer.head_rows - inside[0].start)])
            in_doubt = _DOUBTFUL[0] <= visible < _DOUBTFUL[1]
            if visible < _LEAST_VISIBLE or in_doubt or head_shown < _LEAST_HEAD * head_px:
                return found, layer
            mask = np.zeros_like(covered)
            mask[window] = shown
            found.append(Placed(layer.standing, mask, visible))
        covered[window] |= opaque
    return found, None


def _paint(view: Camera, layers: list[_Layer]) -> np.ndarray:
    image = view.background.copy()
    for layer in layers:
        if layer.standing is not None:
            _paint_shadow(image, layer.standing)
        window, inside = _windows(layer)
        picture = layer.picture[inside]
        clear = 255 - picture[:, :, 3:].astype(np.uint16)
        image[window] = (image[window] * clear + 127) // 255 + picture[:, :, :3]
    return image


def _paint_shadow(image: np.ndarray, standing: Standing) -> None:
    unit_px = adult_height_px(standing.foot_y) * standing.appearance.stature
    x, y = round(standing.foot_x), round(standing.foot_y)
    wide, high = round(0.17 * unit_px), round(0.045 * unit_px)
    top, left = max(0, y - high), max(0, x - wide)
    floor = image[top : y + high + 1, left : x + wide + 1]
    if floor.size:
        shadow = floor.copy()
        cv2.ellipse(shadow, (x - left, y - top), (wide, high), 0, 0, 360, (40, 40, 40), -1)
        floor[:] = cv2.addWeighted(shadow, 0.35, floor, 0.65, 0)


def _windows(layer: _Layer) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the part of the frame that the layer covers, and the same part in the layer's picture."""
    height, width = layer.picture.shape[:2]
    top, bottom = max(0, layer.top), min(FRAME_HEIGHT, layer.top + height)
    left, right = max(0, layer.left), min(FRAME_WIDTH, layer.left + width)
    bottom, right = max(top, bottom), max(left, right)
    frame = (slice(top, bottom), slice(left, right))
    own = (slice(top - layer.top, bottom - layer.top), slice(left - layer.left, right - layer.left))
    return frame, own


def _develop(image: np.ndarray, episode: Episode, rng: np.random.Generator) -> np.ndarray:
    """Apply the effects of a camera: a soft lens, light, noise, and the JPEG compression of a recorder."""
    soft = cv2.GaussianBlur(image, (3, 3), 0.6)
    light = _vignette() * np.float32(episode.brightness * rng.uniform(0.97, 1.03))
    tint = (1 - 0.05 * episode.warmth, 1.0, 1 + 0.05 * episode.warmth)
    lit = cv2.multiply(soft, cv2.merge([light * np.float32(factor) for factor in tint]), dtype=cv2.CV_32F)
    grain = rng.standard_normal(image.shape[:2], np.float32) * np.float32(rng.uniform(2, 6))
    noisy = cv2.add(lit, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
    quality = int(rng.integers(70, 90))
    _, encoded = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cast("np.ndarray", cv2.imdecode(encoded, cv2.IMREAD_COLOR))


@cache
def _vignette() -> np.ndarray:
    x = np.linspace(-1, 1, FRAME_WIDTH, dtype=np.float32)
    y = np.linspace(-1, 1, FRAME_HEIGHT, dtype=np.float32)[:, None]
    shade: np.ndarray = 1 - np.float32(0.06) * (x**2 + y**2)
    return shade
