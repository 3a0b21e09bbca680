"""A crop small enough to cost no more tokens than need be."""

from __future__ import annotations

import cv2
import numpy as np

_JPEG_QUALITY = 90


def shrink_crop(jpeg: bytes, max_side_px: int | None) -> bytes:
    """Scale a crop down so that its longer side has at most so many pixels.

    Gemini counts an image of up to 384 x 384 pixels as one tile and a larger one as several: a standing
    person of 170 x 512 pixels as ten.

    Args:
        jpeg: Encoded image.
        max_side_px: Longest side in pixels, or None for no limit.

    Returns:
        JPEG bytes, the same for the same arguments; the crop itself where it is small enough or no image.
    """
    if max_side_px is None:
        return jpeg
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if image is None or max(image.shape[:2]) <= max_side_px:
        return jpeg
    height, width = image.shape[:2]
    scale = max_side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return encoded.tobytes() if done else jpeg
