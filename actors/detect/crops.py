"""A person's box to a small JPEG: what the annotators see."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from pydantic import Field

from actors.errors import FrameError
from actors.settings_section import Section


class CropSettings(Section):
    """How people are cut out of their frames."""

    padding: float = Field(
        0.05, ge=0, le=1, description="Added on each side, as a share of the box's width and height"
    )
    max_side_px: int = Field(
        512, ge=16, le=4096, description="Longest side of a crop in pixels; larger ones are scaled down"
    )
    jpeg_quality: int = Field(90, ge=1, le=100, description="Quality of the crop's JPEG")


def cut_crop(image: np.ndarray, box_px: np.ndarray, settings: CropSettings) -> bytes:
    """Cut one box out of a frame.

    The padded box is rounded outwards to whole pixels and clamped to the frame. A box without area,
    or beside the frame, gives the nearest pixel rather than an error: the detection is a row either
    way, and one odd box must not cost the frame. Crops are never enlarged.

    Args:
        image: (height, width, 3) uint8, BGR.
        box_px: (4,) x1, y1, x2, y2 in pixels of the image.
        settings: Padding, size and quality.

    Returns:
        JPEG bytes, the same for the same arguments.

    Raises:
        FrameError: The image has no pixels or the box is not made of finite numbers.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in box_px[:4])
    if not all(map(math.isfinite, (x1, y1, x2, y2))) or not image.size:
        raise FrameError(f"can't cut the box {[x1, y1, x2, y2]} out of a {width}x{height} frame")
    pad_x, pad_y = settings.padding * abs(x2 - x1), settings.padding * abs(y2 - y1)
    left, right = _span(x1 - pad_x, x2 + pad_x, width)
    top, bottom = _span(y1 - pad_y, y2 + pad_y, height)
    crop = image[top:bottom, left:right]
    scale = settings.max_side_px / max(crop.shape[:2])
    if scale < 1:
        size = (max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale)))
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality])
    if not done:
        raise FrameError(f"can't encode a {crop.shape[1]}x{crop.shape[0]} crop")
    return encoded.tobytes()


def cut_person(image: np.ndarray, bbox: Sequence[float] | np.ndarray, settings: CropSettings) -> bytes:
    """Cut a person out of a frame by the box as it is stored, so that later cuts give the same bytes.

    Args:
        image: (height, width, 3) uint8, BGR.
        bbox: (4,) x1, y1, x2, y2 in shares of the frame, float32 or float64 of the same values.
        settings: Padding, size and quality.

    Returns:
        JPEG bytes.

    Raises:
        FrameError: As for `cut_crop`.
    """
    height, width = image.shape[:2]
    return cut_crop(image, np.asarray(bbox, np.float64) * [width, height, width, height], settings)


def _span(low: float, high: float, limit: int) -> tuple[int, int]:
    """Whole pixels from `low` to `high` within 0..limit, at least one."""
    start = min(max(math.floor(low), 0), limit - 1)
    stop = min(max(math.ceil(high), start + 1), limit)
    return start, stop
