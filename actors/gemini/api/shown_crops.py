"""Make the picture that Gemini is shown of a crop: scaled down to cost fewer tokens, with blurred faces."""

from __future__ import annotations

import cv2
import numpy as np
from cv2.typing import MatLike

from actors.gemini.api.face_blurring import blur_faces
from actors.gemini.settings import GeminiSettings

_JPEG_QUALITY = 90


def shown_crop(jpeg: bytes, settings: GeminiSettings) -> bytes:
    """Return the picture that is sent for a crop.

    Gemini counts an image of up to 384 x 384 pixels as one tile and a larger image as several. A standing
    person of 170 x 512 pixels, for example, counts as ten tiles.

    Args:
        jpeg: Encoded image, as it was committed.
        settings: `max_side_px` is the maximum length of the longer side, in pixels, or None for no limit.
            `blur_faces` says whether faces are blurred.

    Returns:
        JPEG bytes, which are the same for the same arguments on one machine. A crop that is small enough is
        returned unchanged if nothing is blurred. So is one that can't be decoded; if faces are to be blurred,
        it becomes empty instead, which the server refuses.
    """
    if settings.max_side_px is None and not settings.blur_faces:
        return jpeg
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if image is None:
        return b"" if settings.blur_faces else jpeg
    shown = _shrink(image, settings.max_side_px)
    if settings.blur_faces:
        shown = blur_faces(shown)
    if shown is image:
        return jpeg
    done, encoded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        return b"" if settings.blur_faces else jpeg
    return encoded.tobytes()


def _shrink(image: MatLike, max_side_px: int | None) -> MatLike:
    height, width = image.shape[:2]
    if max_side_px is None or max(height, width) <= max_side_px:
        return image
    scale = max_side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
