"""Tars that are broken, lie about themselves, or expand."""

from __future__ import annotations

import gzip
import tarfile
from functools import cache

from tests.corpus.kinds import BadShard
from tests.support import bad_inputs as bad

_END = bytes(1024)
_LIE_BYTES = 2**40
_BOMB_BYTES = 2**30
_HEADERS = 3000


def header(name: str, size_bytes: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """Return the header of a member."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size_bytes, kind, link
    return member.tobuf(tarfile.GNU_FORMAT)


def member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a whole member."""
    return header(name, len(content), kind) + padded(content)


def padded(content: bytes) -> bytes:
    """Return content up to the end of its last block."""
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def record(key: bytes, value: bytes) -> bytes:
    """Return a record of a PAX header, with its length."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def pax(*records: bytes) -> bytes:
    """Return a PAX header."""
    return member("pax", b"".join(records), tarfile.XHDTYPE)


def with_size(size_bytes: int) -> bytes:
    """Return a header with any size, which may be negative."""
    changed = bytearray(header("lie.txt"))
    changed[124:136] = (size_bytes % 256**12).to_bytes(12, "big")
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


@cache
def picture(seed: int = 0) -> bytes:
    """Return a member with a good image."""
    return member(f"good-{seed}.jpg", bad.jpeg(seed=seed))


@cache
def zeros() -> bytes:
    """Return a gigabyte of zeros in 64 members of gzip, which together are one file."""
    return gzip.compress(bytes(_BOMB_BYTES // 64), mtime=0) * 64


def _links() -> bytes:
    kinds = (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
    )
    links = [header(f"link-{n}.jpg", kind=kind, link="/etc/passwd") for n, kind in enumerate(kinds)]
    return b"".join([picture(), *links, _END])


def _sparse() -> bytes:
    map_text = record(b"GNU.sparse.map", b"0,4,4194303,1") + record(b"GNU.sparse.size", b"%d" % 2**50)
    return pax(map_text) + member("sparse.jpg", b"12345") + picture() + _END


def _names() -> bytes:
    names = [
        "../../up.jpg",
        "/absolute.jpg",
        "C:\\windows.jpg",
        "a/./b/../c.jpg",
        "new\nline.jpg",
        "x" * 3000 + ".jpg",
    ]
    return bad.tar([(name, bad.jpeg()) for name in names])


def _text_names() -> bytes:
    names = [
        "<img src=x onerror=alert(1)>",
        "=cmd|'!A0'",
        "@SUM(1)",
        "'; DROP TABLE persons",
        "{{7*7}} ${7*7}",
        "\u202egpj",
    ]
    return bad.tar([(f"{name}.jpg", bad.jpeg()) for name in names], tarfile.PAX_FORMAT)


def _chain(kind: bytes) -> bytes:
    return header("next", 0, kind) * _HEADERS + picture() + _END


TARS = (
    *(BadShard(f"tar: {name}", ".tar", make, error=error) for name, (make, error, _) in bad.BAD_TARS.items()),
    *(
        BadShard(f"tar.gz: {name}", ".tar.gz", make, error=error)
        for name, (make, error) in bad.BAD_GZIPPED_TARS.items()
    ),
    BadShard(
        "tar: the same name twice",
        ".tar",
        lambda: bad.tar([("a.jpg", bad.jpeg()), ("a.jpg", bad.jpeg(seed=1))]),
        (None, "duplicate key"),
    ),
    BadShard("tar: names that lead out of the folder", ".tar", _names, (None,) * 6),
    BadShard("tar: names of markup, formulas, SQL and templates", ".tar", _text_names, (None,) * 6),
    BadShard(
        "tar: names that aren't UTF-8, or have a zero byte",
        ".tar",
        lambda: (
            pax(record(b"hdrcharset", b"BINARY"), record(b"path", b"\xff\xfe.jpg"))
            + picture()
            + pax(record(b"path", b"zero\0byte.jpg"))
            + picture()
            + _END
        ),
        (None, None),
    ),
    BadShard("tar: links, devices and folders named as images", ".tar", _links, (None,)),
    BadShard("tar: sparse member of a petabyte", ".tar", _sparse, ("too large", None)),
    BadShard(
        "tar: sparse member with a broken map",
        ".tar",
        lambda: (
            pax(record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.minor", b"0"))
            + member("a.jpg", b"999999999\n")
            + picture()
            + _END
        ),
        error="damaged",
    ),
    BadShard(
        "tar: an image of a declared terabyte",
        ".tar",
        lambda: picture() + header("huge.jpg", _LIE_BYTES) + _END,
        error="truncated or damaged",
    ),
    BadShard("tar: negative size", ".tar", lambda: picture() + with_size(-512) + _END, error="negative size"),
    BadShard(
        "tar: negative size in a PAX header",
        ".tar",
        lambda: picture() + pax(record(b"size", b"-1024")) + picture(1) + _END,
        error="negative size",
    ),
    BadShard(
        "tar: size of 21 digits in a PAX header",
        ".tar",
        lambda: pax(record(b"size", b"9" * 21)) + picture() + _END,
        error="truncated or damaged",
    ),
    BadShard(
        "tar: PAX record that is longer than its header",
        ".tar",
        lambda: picture() + pax(b"999999999 path=x\n") + picture(1) + _END,
        (None,),
    ),
    BadShard(
        "tar: PAX header of digits",
        ".tar",
        lambda: picture() + pax(b"1" * 100_000) + picture(1) + _END,
        error="more than 255 digits",
    ),
    BadShard(
        "tar: thousands of PAX headers in a row", ".tar", lambda: _chain(tarfile.XHDTYPE), error="damaged"
    ),
    BadShard(
        "tar: thousands of long names in a row",
        ".tar",
        lambda: _chain(tarfile.GNUTYPE_LONGNAME),
        error="damaged",
    ),
    BadShard(
        "tar: a tar within a tar",
        ".tar",
        lambda: member("inner.tar", bad.tar(bad.frames(2))) + picture() + _END,
        (None,),
    ),
    BadShard(
        "tar.gz: long name of a gigabyte",
        ".tar.gz",
        lambda: gzip.compress(header("n", _BOMB_BYTES, tarfile.GNUTYPE_LONGNAME)) + zeros(),
        error="headers have more than",
    ),
    BadShard(
        "tar.gz: PAX header of a gigabyte",
        ".tar.gz",
        lambda: gzip.compress(header("n", _BOMB_BYTES, tarfile.XHDTYPE)) + zeros(),
        error="headers have more than",
    ),
    BadShard(
        "tar.gz: image of a gigabyte",
        ".tar.gz",
        lambda: gzip.compress(picture() + header("bomb.jpg", _BOMB_BYTES)) + zeros(),
        error="expands to",
    ),
    BadShard(
        "tar.gz: a gigabyte after the end",
        ".tar.gz",
        lambda: gzip.compress(picture() + _END) + zeros(),
        error="expands to",
    ),
)
