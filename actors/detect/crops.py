"""Cut persons out of frames as small JPEGs, which the annotators are shown."""

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
        0.1,
        ge=0,
        le=1,
        description="Margin added on each side, as a share of the box's width and height. It keeps hats "
        "and shoes in the crop.",
    )
    max_side_px: int = Field(
        512, ge=16, le=4096, description="Longest side of a crop, in pixels. Larger crops are scaled down."
    )
    jpeg_quality: int = Field(90, ge=1, le=100, description="JPEG quality of the crops.")
    max_frame_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        description="Size of the crops of one frame, in bytes, from which on its other people are dropped; "
        "the highest scores are kept.",
    )

    max_block_bytes: int = Field(
        256 * 2**20,
        ge=1,
        description="Maximum size of the crops of one shard, in bytes. The frames beyond it become a shard "
        "of their own, which the run does next. Committed shards keep their frames when this changes.",
    )

    def fingerprint_content(self) -> dict[str, object]:
        """Return everything that results depend on.

        `max_frame_bytes` is left out at its default, which no usual frame reaches: outputs of versions that
        did not have it stay valid. `max_block_bytes` is left out because a commit record says which frames it
        has, and they are the same if it is done again.
        """
        default = type(self).model_fields["max_frame_bytes"].default
        left_out = {"max_block_bytes"}
        if self.max_frame_bytes == default:
            left_out.add("max_frame_bytes")
        return self.model_dump(exclude=left_out)


def cut_crop(image: np.ndarray, box_px: np.ndarray, settings: CropSettings) -> bytes:
    """Cut one box out of a frame.

    The padded box is rounded outwards to whole pixels and clamped to the frame. A box without area or
    outside the frame yields the nearest pixel instead of an error, because one odd box must not fail the
    whole frame and its detection is stored either way. Crops are never enlarged.

    Args:
        image: (height, width, 3) uint8, BGR.
        box_px: (4,) x1, y1, x2, y2 in pixels of the image.
        settings: Padding, size and quality.

    Returns:
        JPEG bytes; equal arguments give equal bytes.

    Raises:
        FrameError: The image has no pixels, or a coordinate of the box is not finite.
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
    """Cut a person out of a frame by the stored box, so that cutting it again gives the same bytes.

    Args:
        image: (height, width, 3) uint8, BGR.
        bbox: (4,) x1, y1, x2, y2 in shares of the frame; float32 values, possibly widened to float64.
        settings: Padding, size and quality.

    Returns:
        JPEG bytes.

    Raises:
        FrameError: For the same reasons as in `cut_crop`.
    """
    height, width = image.shape[:2]
    return cut_crop(image, np.asarray(bbox, np.float64) * [width, height, width, height], settings)


def _span(low: float, high: float, limit: int) -> tuple[int, int]:
    """Round `low` and `high` outwards to a range of at least one whole pixel within 0..limit."""
    start = min(max(math.floor(low), 0), limit - 1)
    stop = min(max(math.ceil(high), start + 1), limit)
    return start, stop
