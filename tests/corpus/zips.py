"""Zips that are broken, lie about themselves, or expand."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from functools import cache

from tests.corpus.kinds import BadShard
from tests.support import bad_inputs as bad

_BOMB_BYTES = 256 * 2**20
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def _two() -> dict[str, bytes]:
    return {"a.jpg": bad.jpeg(), "b.jpg": bad.jpeg(seed=1)}


def changed(content: bytes, local: Mapping[int, bytes], central: Mapping[int, bytes]) -> bytes:
    """Return a zip with other bytes at these offsets of the first entry's two headers."""
    found = bytearray(content)
    for magic, changes in ((_LOCAL, local), (_CENTRAL, central)):
        start = content.find(magic)
        for offset, value in changes.items():
            found[start + offset : start + offset + len(value)] = value
    return bytes(found)


def _bomb(method: int, declared_bytes: int) -> bytes:
    """Return a zip of a bomb that declares another size, and a good image."""
    size = struct.pack("<I", declared_bytes)
    return changed(_honest_bomb(method), {22: size}, {24: size})


@cache
def _honest_bomb(method: int) -> bytes:
    size_bytes = _BOMB_BYTES if method == zipfile.ZIP_DEFLATED else _BOMB_BYTES // 8
    return bad.zipped({"a.jpg": bytes(size_bytes), "b.jpg": bad.jpeg()}, method)


def _spoilt(method: int) -> bytes:
    packed = bad.zipped(_two(), method)
    at = packed.find(b"a.jpg") + 60
    return packed[:at] + b"\xff" * 20 + packed[at + 20 :]


def _overlapping() -> bytes:
    """Return a zip whose first entry has the second one as a part of its content."""
    packed = bad.zipped(_two())
    reach = struct.pack("<II", *[packed.find(_CENTRAL) - packed.find(b"a.jpg") - 5] * 2)
    return changed(packed, {18: reach}, {20: reach})


def _with_zip64_end(offset: int, size_bytes: int) -> bytes:
    packed = bad.zipped(_two())
    at = packed.find(_END)
    end = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, size_bytes, offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    return packed[:at] + end + locator + _END + struct.pack("<HHHHIIH", 0, 0, 2, 2, 2**32 - 1, 2**32 - 1, 0)


def _with_zip64_entry() -> bytes:
    packed = bad.zipped(_two())
    end = packed.find(_END)
    start = packed.find(_CENTRAL)
    extra = struct.pack("<HHQQQ", 1, 24, *[2**63 + 5] * 3)
    first = bytearray(packed[start : start + 46 + len("a.jpg")])
    first[20:28], first[42:46] = b"\xff" * 8, b"\xff" * 4
    first[30:32] = struct.pack("<H", len(extra))
    directory = bytes(first) + extra + packed[start + len(first) : end]
    tail = _END + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(directory), start, 0)
    return packed[:start] + directory + tail


def _nameless() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        entry = zipfile.ZipInfo("a")
        entry.filename = ""
        archive.writestr(entry, b"x")
    return sink.getvalue()


def _twice() -> bytes:
    packed = bad.zipped({"a.jpg": bad.jpeg()})
    start, end = packed.find(_CENTRAL), packed.find(_END)
    directory = packed[start:end] * 2
    return packed[:start] + directory + _END + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(directory), start, 0)


_NAMES = ("../../up.jpg", "/absolute.jpg", "C:\\windows.jpg", "e/" * 500 + "deep.jpg", "<b>=1+1.jpg")

ZIPS = (
    *(BadShard(f"zip: {name}", ".zip", make, error=error) for name, (make, error) in bad.BAD_ZIPS.items()),
    BadShard("zip: encrypted", ".zip", lambda: bad.encrypted_zip(_two()), ("encrypted",) * 2),
    BadShard(
        "zip: wrong checksum",
        ".zip",
        lambda: changed(bad.zipped(_two()), {14: b"abcd"}, {16: b"abcd"}),
        ("Bad CRC-32", None),
    ),
    BadShard(
        "zip: damaged deflate", ".zip", lambda: _spoilt(zipfile.ZIP_DEFLATED), ("damaged in the zip", None)
    ),
    BadShard("zip: bzip2", ".zip", lambda: _spoilt(zipfile.ZIP_BZIP2), ("method bzip2", "method bzip2")),
    BadShard("zip: LZMA", ".zip", lambda: _spoilt(zipfile.ZIP_LZMA), ("method lzma", "method lzma")),
    BadShard(
        "zip: unknown compression",
        ".zip",
        lambda: changed(bad.zipped(_two()), {8: b"\x62\0"}, {10: b"\x62\0"}),
        ("method ppmd", None),
    ),
    BadShard(
        "zip: bomb that says its size",
        ".zip",
        lambda: _honest_bomb(zipfile.ZIP_DEFLATED),
        ("too large", None),
    ),
    BadShard(
        "zip: bomb that says it is small",
        ".zip",
        lambda: _bomb(zipfile.ZIP_DEFLATED, 1000),
        ("Bad CRC-32", None),
    ),
    BadShard(
        "zip: bomb in bzip2 that says it is small",
        ".zip",
        lambda: _bomb(zipfile.ZIP_BZIP2, 1000),
        ("method bzip2", "method bzip2"),
    ),
    BadShard("zip: overlapping entries", ".zip", _overlapping, ("overlaps with another entry", None)),
    BadShard("zip: the same entry twice", ".zip", _twice, (None, "duplicate key")),
    BadShard(
        "zip: only an entry without a name",
        ".zip",
        _nameless,
        error="contains no images (found: no extension x1)",
    ),
    BadShard(
        "zip: headers with different names",
        ".zip",
        lambda: bad.zipped(_two()).replace(b"a.jpg", b"c.jpg", 1),
        ("differ", None),
    ),
    BadShard(
        "zip: name that isn't the UTF-8 that it says",
        ".zip",
        lambda: changed(bad.zipped(_two()), {6: b"\0\x08"}, {8: b"\0\x08", 46: b"\xff"}),
        error="not a zip",
    ),
    BadShard(
        "zip: names that lead out of the folder",
        ".zip",
        lambda: bad.zipped({name: bad.jpeg() for name in _NAMES}),
        (None,) * len(_NAMES),
    ),
    BadShard(
        "zip: entry far behind the end",
        ".zip",
        lambda: changed(bad.zipped(_two()), {}, {42: b"\xff\xff\xff\x7f"}),
        ("damaged in the zip", None),
    ),
    BadShard("zip64: sizes of 9 exabytes", ".zip", _with_zip64_entry, ("too large", None)),
    BadShard(
        "zip64: directory before the start", ".zip", lambda: _with_zip64_end(0, 2**62), error="not a zip"
    ),
    BadShard(
        "zip64: directory behind the end",
        ".zip",
        lambda: _with_zip64_end(2**63, 102),
        ("damaged in the zip",) * 2,
    ),
)
