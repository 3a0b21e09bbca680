"""Scale crops down so that they cost fewer tokens."""

from __future__ import annotations

import cv2
import numpy as np

_JPEG_QUALITY = 90


def shrink_crop(jpeg: bytes, max_side_px: int | None) -> bytes:
    """Scale a crop down so that its longer side has at most `max_side_px` pixels.

    Gemini counts an image of up to 384 x 384 pixels as one tile and a larger image as several. A standing
    person of 170 x 512 pixels, for example, counts as ten tiles.

    Args:
        jpeg: Encoded image.
        max_side_px: Maximum length of the longer side, in pixels, or None for no limit.

    Returns:
        JPEG bytes, which are the same for the same arguments. A crop that is small enough, or that can't
        be decoded, is returned unchanged.
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
