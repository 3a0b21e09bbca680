"""Decode images to pixels, and refuse those that are incomplete or too large."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from actors.errors import FrameError
from actors.read.image_headers import check_complete, read_size
from actors.read.jpeg_decoder import PixelBuffer, decode_jpeg


def decode_frame(data: bytes, max_pixels: int, buffer: PixelBuffer | None = None) -> NDArray[np.uint8]:
    """Decode one image to the pixels that `cv2.imread` returns, with the EXIF rotation applied.

    Usual JPEGs are decoded by simplejpeg and everything else by OpenCV, bit for bit to the same pixels where
    both are of the locked versions. So which of them decodes a frame isn't part of any fingerprint.

    The format is recognised by content, regardless of the file name. Grey, CMYK, 16-bit and transparent
    images become 8-bit BGR, and an animation gives its first frame. Every shape is accepted, even 1x1 and
    1x10000; the detector decides what can be seen in it.

    JPEG has no checksum, so damaged compressed pixels are decoded if the structure of the file is intact,
    as in every JPEG decoder. Truncated images are never decoded.

    Args:
        data: Encoded JPEG, PNG, WebP, BMP or GIF.
        max_pixels: Maximum number of pixels to decode. It is compared with the size in the header, so
            an image that would fill the memory is refused before it is decoded.
        buffer: Memory for the pixels, which are overwritten by the next frame that is decoded into it.

    Returns:
        Pixels as uint8 BGR, of shape (height, width, 3).

    Raises:
        FrameError: The data is empty, not an image, truncated, damaged or too large.
    """
    size = read_size(data)
    if size.width * size.height > max_pixels:
        raise FrameError(
            f"too large: {size.width}x{size.height} pixels, more than input.max_image_pixels allows "
            f"({max_pixels})"
        )
    check_complete(data, size.kind)
    usual = decode_jpeg(data, size, buffer) if size.kind == "JPEG" else None
    if usual is not None:
        return usual
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise FrameError(f"damaged {size.kind}: {error.err or 'OpenCV refuses it'}") from error
    if pixels is None:
        raise FrameError(f"damaged {size.kind}, or a variant that OpenCV cannot read")
    return cast("NDArray[np.uint8]", pixels)
