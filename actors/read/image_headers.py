"""Read the size of an encoded image, and check that it is complete, without decoding it.

OpenCV silently decodes a truncated image and fills the rest with grey, so this module checks the
structure of the file. This takes 0.1 to 0.2 ms for a JPEG of 1920x1080, a hundredth of the time to decode
it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.errors import FrameError


@dataclass(frozen=True, slots=True)
class ImageSize:
    """The format of an image, and its size in pixels as stored, before any EXIF rotation."""

    kind: str
    width: int
    height: int


def read_size(data: bytes) -> ImageSize:
    """Return the format and size of an image.

    Raises:
        FrameError: The data is empty, not an image of a supported format, or truncated within its header.
    """
    if not data:
        raise FrameError("empty (0 bytes)")
    kind = _kind_of(data)
    try:
        width, height = _SIZES[kind](data)
    except (struct.error, IndexError) as error:
        raise FrameError(f"truncated {kind}: ends within its header, after {len(data)} bytes") from error
    if width < 1 or height < 1:
        raise FrameError(f"damaged {kind}: its header says {width}x{height} pixels")
    return ImageSize(kind, width, height)


def check_complete(data: bytes, kind: str) -> None:
    """Check that the first image of the file is complete.

    A flipped bit within compressed pixels can go unnoticed in JPEG, which has no checksum.

    Raises:
        FrameError: The image is truncated, its structure is damaged, or a checksum is wrong (PNG only).
    """
    try:
        _CHECKS[kind](data)
    except (struct.error, IndexError) as error:
        raise FrameError(f"truncated {kind}: ends after {len(data)} bytes") from error


def jpeg_header(data: bytes) -> bytes:
    """Return everything before the pixels of a JPEG.

    Raises:
        FrameError: The structure is damaged.
        IndexError: The data ends within its header.
    """
    return data[: _jpeg_header(data, frozenset())[1]]


def _kind_of(data: bytes) -> str:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    if len(data) < 12 and any(
        s.startswith(data) for s in (b"\xff\xd8\xff", _PNG_SIGNATURE, b"RIFF", b"GIF8")
    ):
        raise FrameError(f"truncated: only {len(data)} bytes")
    other = _OTHER_KINDS.get(data[:4]) or _OTHER_BRANDS.get(data[4:12])
    if other:
        raise FrameError(f"{other} is not read; convert it to JPEG, PNG or WebP")
    raise FrameError(f"not a JPEG, PNG, WebP, BMP or GIF image: begins with {data[:8].hex(' ')}")


_OTHER_KINDS = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0c": "JPEG 2000",
}
_OTHER_BRANDS = {
    b"ftypavif": "AVIF",
    b"ftypavis": "AVIF",
    b"ftypheic": "HEIC",
    b"ftypheix": "HEIC",
    b"ftypmif1": "HEIC",
}

# --- JPEG ---

_SOS, _EOI, _TEM = 0xDA, 0xD9, 0x01
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MOST_SCANS = 64
"""Encoders write 10 or so. Each scan of a few bytes costs the decoder a pass over all pixels."""
_BETWEEN_SCANS = frozenset({0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})

# Within entropy-coded data, 0xFF is followed by 0x00, by a restart marker, or by another 0xFF as filler.
_ENDS_PIXELS = np.ones(256, bool)
_ENDS_PIXELS[[0x00, 0xFF, *range(0xD0, 0xD8)]] = False


def _jpeg_size(data: bytes) -> tuple[int, int]:
    marker, at = _jpeg_header(data, _FRAME_HEADERS)
    if marker not in _FRAME_HEADERS:
        raise FrameError("damaged JPEG: has no frame header before its pixels")
    height, width = struct.unpack_from(">HH", data, at + 5)
    return width, height


def _jpeg_header(data: bytes, wanted: frozenset[int]) -> tuple[int, int]:
    """Return the marker and offset of the first segment that is wanted or starts the pixels."""
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1
        if data[at] != 0xFF:
            raise FrameError(f"damaged JPEG: no marker at byte {at}")
        marker = data[at + 1]
        if marker in wanted or marker == _SOS:
            return marker, at
        if marker == _EOI:
            raise FrameError("damaged JPEG: ends before its pixels")
        if marker == _TEM or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + _segment_length(data, at)


def _segment_length(data: bytes, at: int) -> int:
    length: int = struct.unpack_from(">H", data, at + 2)[0]
    if length < 2:
        raise FrameError(f"damaged JPEG: a segment of {length} bytes at byte {at}")
    return length


def _check_jpeg(data: bytes) -> None:
    _, at = _jpeg_header(data, frozenset({_SOS}))
    markers = _marker_offsets(data, at)
    scans = 1
    while True:
        at += 2 + _segment_length(data, at)
        following = int(np.searchsorted(markers, at))
        if following == len(markers):
            raise FrameError(f"truncated JPEG: ends after {len(data)} bytes without an end-of-image marker")
        at = int(markers[following])
        marker = data[at + 1]
        if marker == _EOI:
            return
        scans += marker == _SOS
        if scans > _MOST_SCANS:
            raise FrameError(f"damaged JPEG: has more than {_MOST_SCANS} scans")
        if marker not in _BETWEEN_SCANS:
            raise FrameError(f"damaged JPEG: marker {marker:02x} within its pixels at byte {at}")


def _marker_offsets(data: bytes, start: int) -> NDArray[np.intp]:
    """Return the sorted offsets of possible end-of-scan markers.

    The search is vectorised because it looks at every byte.
    """
    content = np.frombuffer(data, np.uint8)
    found = np.flatnonzero(content[start:-1] == 0xFF) + start
    return found[_ENDS_PIXELS[content[found + 1]]]


# --- PNG ---

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _png_size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        if len(data) < 16:
            raise IndexError
        raise FrameError("damaged PNG: has no IHDR chunk")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _check_png(data: bytes) -> None:
    view = memoryview(data)
    at = len(_PNG_SIGNATURE)
    has_pixels = False
    while True:
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        # Chunks with lower-case names are not needed for the pixels of the first image.
        if name[:1].isupper() and zlib.crc32(view[at + 4 : end]) != checksum:
            raise FrameError(
                f"damaged PNG: wrong checksum of the {name.decode('ascii', 'replace')} at byte {at}"
            )
        has_pixels = has_pixels or name == b"IDAT"
        if name == b"IEND":
            break
        at = end + 4
    if not has_pixels:
        raise FrameError("damaged PNG: has no pixels (IDAT)")


# --- WebP ---


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        width = int.from_bytes(_exactly(data, 24, 3), "little") + 1
        height = int.from_bytes(_exactly(data, 27, 3), "little") + 1
        return width, height
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if len(data) < 16:
        raise IndexError
    raise FrameError("damaged WebP: has no pixels (VP8)")


def _exactly(data: bytes, at: int, size: int) -> bytes:
    if len(data) < at + size:
        raise IndexError
    return data[at : at + size]


def _check_webp(data: bytes) -> None:
    (size,) = struct.unpack_from("<I", data, 4)
    if len(data) < 8 + size:
        raise FrameError(f"truncated WebP: {len(data)} of {8 + size} bytes")


# --- GIF ---


def _gif_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _check_gif(data: bytes) -> None:
    at = 13 + _gif_table_bytes(data[10])
    while True:
        introducer = data[at]
        if introducer == 0x2C:
            _skip_gif_blocks(data, at + 11 + _gif_table_bytes(data[at + 9]))
            return
        if introducer != 0x21:
            raise FrameError(f"damaged GIF: no image, and block {introducer:02x} at byte {at}")
        at = _skip_gif_blocks(data, at + 2)


def _gif_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_gif_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += 1 + data[at]
    return at + 1


# --- BMP ---


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return width, height
    width, height = struct.unpack_from("<ii", data, 18)
    # A negative height means that the rows are stored from top to bottom.
    return width, abs(height)


def _check_bmp(data: bytes) -> None:
    (pixels_at, header_bytes) = struct.unpack_from("<II", data, 10)
    width, height = _bmp_size(data)
    (bits,) = struct.unpack_from("<H", data, 24 if header_bytes == 12 else 28)
    compression = 0 if header_bytes == 12 else struct.unpack_from("<I", data, 30)[0]
    if compression in (1, 2):
        if data.find(b"\0\x01", pixels_at) < 0:
            raise FrameError(f"truncated BMP: ends after {len(data)} bytes without an end-of-bitmap marker")
        return
    needed = pixels_at + (width * bits + 31) // 32 * 4 * height
    if len(data) < needed:
        raise FrameError(f"truncated BMP: {len(data)} of {needed} bytes")


_SIZES: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "JPEG": _jpeg_size,
    "PNG": _png_size,
    "WebP": _webp_size,
    "GIF": _gif_size,
    "BMP": _bmp_size,
}
_CHECKS: dict[str, Callable[[bytes], None]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "WebP": _check_webp,
    "GIF": _check_gif,
    "BMP": _check_bmp,
}
