"""Decode the usual JPEG with simplejpeg, which takes about half of OpenCV's time for the same pixels.

Both use libjpeg-turbo, but OpenCV's copy is built without some of its vector code. Everything that isn't
usual is left to OpenCV: other colour models, rotated frames, and every file that libjpeg-turbo warns about.
"""

from __future__ import annotations

import struct
import warnings
from typing import cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from actors.read.image_headers import ImageSize, jpeg_header

_COLOURS = ("YCbCr", "RGB", "Gray")
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_UPRIGHT = 1
_KEPT_BYTES = 64 * 2**20


class PixelBuffer:
    """Memory for the pixels of one frame, which is used again for the next one.

    Fresh memory costs 1.8 ms per frame of 1920x1080, a third of the time to decode it, because the kernel
    clears each page. Frames of more than 64 MiB (21 million pixels) get memory of their own, so that a single
    large one doesn't stay.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def of(self, size_bytes: int) -> NDArray[np.uint8]:
        """Return at least `size_bytes` bytes, which overwrites the frame before."""
        if len(self._memory) >= size_bytes:
            return self._memory
        memory = np.empty(size_bytes, np.uint8)
        if size_bytes <= _KEPT_BYTES:
            self._memory = memory
        return memory


def decode_jpeg(data: bytes, size: ImageSize, buffer: PixelBuffer | None = None) -> NDArray[np.uint8] | None:
    """Decode a complete JPEG to the pixels that OpenCV gives, or return None if OpenCV has to decode it.

    Args:
        data: The encoded image.
        size: What its header says.
        buffer: Memory for the pixels. Without it they get memory of their own.

    Returns:
        Pixels as uint8 BGR, of shape (height, width, 3).
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != (size.width, size.height) or colours not in _COLOURS or _may_be_rotated(data):
            return None
        memory = None if buffer is None else buffer.of(width * height * 3)
        pixels = simplejpeg.decode_jpeg(data, colorspace="BGR", buffer=memory)
    except ValueError:
        return None
    return cast("NDArray[np.uint8]", pixels)


def _may_be_rotated(data: bytes) -> bool:
    """Return whether the EXIF says that the frame isn't upright, or can't be understood."""
    header = jpeg_header(data)
    at = header.find(_EXIF)
    if at < 0:
        return False
    if header.find(_EXIF, at + 1) >= 0:
        return True
    from PIL import Image

    exif = Image.Exif()
    try:
        with warnings.catch_warnings(action="ignore"):
            exif.load(header[at:])
            return bool(exif.get(_ORIENTATION, _UPRIGHT) != _UPRIGHT)
    except (SyntaxError, struct.error, ValueError, KeyError, IndexError, TypeError, OSError):
        return True
