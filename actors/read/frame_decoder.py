"""Encoded image to pixels: whole images only, and none that are too large to be one frame."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from actors.errors import FrameError
from actors.read.image_headers import check_complete, read_size


def decode_frame(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one image to the pixels that `cv2.imread` gives, EXIF rotation included.

    The kind is told by content, whatever the file was called. Grey, CMYK, 16-bit and transparent
    images become 8-bit BGR; of an animation the first frame is taken. Any shape is accepted, 1x1 and
    1x10000 too: what can be seen in it is the detector's business.

    JPEG has no checksum: damage among its compressed pixels that leaves the structure whole is
    decoded, as every JPEG decoder does. Truncation never is.

    Args:
        data: JPEG, PNG, WebP, BMP or GIF.
        max_pixels: Most pixels to decode; checked in the header, so that an image that would fill
            the memory costs nothing.

    Returns:
        Height x width x 3, uint8, BGR.

    Raises:
        FrameError: Empty, not an image, truncated, damaged or too large.
    """
    size = read_size(data)
    if size.width * size.height > max_pixels:
        raise FrameError(
            f"too large: {size.width}x{size.height} pixels, more than input.max_image_pixels allows "
            f"({max_pixels})"
        )
    check_complete(data, size.kind)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise FrameError(f"damaged {size.kind}: {error.err or 'OpenCV refuses it'}") from error
    if pixels is None:
        raise FrameError(f"damaged {size.kind}, or of a variant that OpenCV does not read")
    return cast("NDArray[np.uint8]", pixels)
