"""Read the members of a tar, or of a part of it, and detect every truncation.

`tarfile` stops silently where a tar is cut between members or where a header is damaged. This module
therefore checks that the block that ended the iteration is the end-of-archive marker.

A part is a range of bytes. It can be read without an index of the tar, because the headers of a tar can be
found from any offset: they start at multiples of 512 bytes and contain a magic and a checksum. Both parts
next to a boundary move it to the start of a sample by the same rule. The part before the boundary knows
where the headers really are, and checks that the part after it will find the same place.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from actors.errors import ShardError
from actors.read.file_names import webdataset_key

_BLOCK = 512
_END_MARKER = bytes(_BLOCK)
_MAGIC = b"ustar"
_MAGIC_AT = 257
_SCAN_BYTES = 2**20

_LOOK_BACK_BYTES = 2**16
"""Maximum distance before a boundary at which an extended header (a long name) is still recognised."""

_MOST_HEADER_BYTES = 2**17
"""Maximum size of all headers of one member. `tarfile` holds them in memory; those of real files, with long
names and extended attributes, are smaller."""

_DIGITS = re.compile(rb"\d{256}")
"""`tarfile` searches extended headers by patterns whose time grows with the square of the digits in a row. No
file name has so many."""

_NAME_HEADERS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)

_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, IndexError, OverflowError)
"""Exceptions of tarfile and gzip on damaged bytes. Those of the store are StoreErrors."""

_HEADER_DAMAGE = (*_DAMAGE, RecursionError)
"""`tarfile` reads a header that follows an extended one by a call within the call."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in a tar. `read` is valid until the next member is requested."""

    name: str
    key: str
    size_bytes: int
    read: Callable[[], bytes]


class _WatchedFile:
    """A file that limits what is read of headers, and remembers the last bytes that were read.

    By the last bytes, it is checked which block ended the iteration.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left: int | None = None
        self.last = b""

    @contextmanager
    def reading_headers(self) -> Iterator[None]:
        """Limit what is read meanwhile. Raises ShardError."""
        self._left = _MOST_HEADER_BYTES
        try:
            yield
        finally:
            self._left = None

    def read(self, size: int = -1) -> bytes:
        if self._left is not None and not 0 <= size <= self._left:
            raise ShardError(
                f"damaged: a member's headers have more than {_MOST_HEADER_BYTES} bytes; pack it again"
            )
        self.last = self._file.read(size)
        if self._left is not None:
            self._left -= len(self.last)
            if _DIGITS.search(self.last):
                raise ShardError("damaged: a header with a number of more than 255 digits; pack it again")
        return self.last

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()


def iter_members(file: IO[bytes], start: int = 0, stop: int | None = None) -> Iterator[TarMember]:
    """Yield the regular files of a tar, or of the part between two byte offsets, in the order of the tar.

    A sample consists of adjacent members with the same key. A part holds the samples that begin after the
    one at `start`, up to and including the one at `stop`. The parts of a tar therefore share no sample and
    leave none out.

    Args:
        file: Seekable file; a whole tar needs only forward seeks.
        start: Offset of the part, or 0 for the start of the tar.
        stop: Offset of the end of the part, or None for the end of the tar.

    Raises:
        ShardError: The file is not a tar, or is truncated or damaged. The members before the damage were
            yielded.
        StoreError: The store failed, if the file is a `StoreFile`.
    """
    skipped_key: str | None = None
    if start:
        first = find_member(file, start, stop)
        if first is None:
            return
        file.seek(first)
    watched = _WatchedFile(file)
    try:
        with watched.reading_headers():
            tar = tarfile.open(fileobj=watched, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
    except _HEADER_DAMAGE as error:
        raise ShardError(f"not a tar, or damaged in its first header: {error}") from error
    last_key: str | None = None
    is_first = bool(start)
    while (member := _next(tar, watched)) is not None:
        key = webdataset_key(member.name)
        if is_first:
            skipped_key, is_first = key, False
        if stop is not None and member.offset >= stop:
            if last_key is None:
                last_key = key
                _check_boundary(file, stop, member.offset)
            elif key != last_key:
                return
        if key == skipped_key:
            continue
        skipped_key = None
        if member.isreg():
            yield TarMember(member.name, key, member.size, _reader(tar, watched, member))
    if stop is not None and last_key is None:
        _check_boundary(file, stop, None)


def _next(tar: tarfile.TarFile, watched: _WatchedFile) -> tarfile.TarInfo | None:
    """Return the next member, or None at the end-of-archive marker."""
    offset = tar.offset
    try:
        with watched.reading_headers():
            member = tar.next()
        # tarfile keeps every member that it has seen, which could be a million in one shard.
        tar.members.clear()  # type: ignore[attr-defined]
        if member is not None:
            if member.size < 0 or tar.offset < member.offset_data:
                raise ShardError(f"damaged: the member at byte {member.offset} has a negative size")
            return member
        if watched.last != _END_MARKER:
            raise ShardError(_describe_end(watched.last, offset))
        while block := watched.read(_SCAN_BYTES):
            if block.count(0) != len(block):
                raise ShardError(
                    f"there is data after the end-of-archive marker at byte {offset}: a hole in the file, or "
                    "several tars written one after another; unpack and pack it again"
                )
    except _HEADER_DAMAGE as error:
        raise ShardError(f"truncated or damaged after byte {offset}: {error}") from error
    return None


def _describe_end(block: bytes, offset: int) -> str:
    if not block:
        return f"truncated: ends at byte {offset} without the end-of-archive marker"
    if len(block) < _BLOCK:
        return f"truncated within a header at byte {offset}"
    return f"damaged: no valid header at byte {offset}"


def _reader(tar: tarfile.TarFile, watched: _WatchedFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            if member.issparse():
                content = tar.extractfile(member)
                data = b"" if content is None else content.read()
            else:
                watched.seek(member.offset_data)
                data = watched.read(member.size)
        except _DAMAGE as error:
            raise ShardError(f"truncated or damaged within {member.name!r}: {error}") from error
        if len(data) != member.size:
            raise ShardError(f"truncated within {member.name!r}: {len(data)} of {member.size} bytes")
        return data

    return read


def _check_boundary(file: IO[bytes], boundary: int, expected: int | None) -> None:
    if find_member(file, boundary, None if expected is None else expected + _BLOCK) != expected:
        raise ShardError(
            f"can't be divided at byte {boundary}: it is a tar of the old format without magic, or "
            "contains another tar; set input.max_shard_bytes above the size of the file"
        )


def find_member(file: IO[bytes], position: int, limit: int | None = None) -> int | None:
    """Return the offset of the first member with a header at or after a position, or None.

    Args:
        file: Seekable file, whose position is changed.
        position: Offset at which the search starts.
        limit: Offset at which the search ends; a header must begin before it.
    """
    at = max(0, position - _LOOK_BACK_BYTES) // _BLOCK * _BLOCK
    chain: int | None = None
    for offset, header in _scan_headers(file, at, limit):
        begins = offset if chain is None else chain
        chain = begins if header.type in _NAME_HEADERS else None
        if begins >= position and header.type != tarfile.XGLTYPE:
            return begins
    return None


def _scan_headers(file: IO[bytes], at: int, limit: int | None) -> Iterator[tuple[int, tarfile.TarInfo]]:
    """Yield the valid headers from offset `at` on, skipping the content of each member."""
    while limit is None or at < limit:
        file.seek(at)
        window = file.read(_SCAN_BYTES)
        if len(window) < _BLOCK:
            return
        found = _first_header(window)
        if found is None:
            at += len(window) // _BLOCK * _BLOCK
            continue
        header = found[1]
        offset = at + found[0]
        if limit is not None and offset >= limit:
            return
        yield offset, header
        at = offset + _BLOCK + -(-header.size // _BLOCK) * _BLOCK


def _first_header(window: bytes) -> tuple[int, tarfile.TarInfo] | None:
    at = -1
    while (at := window.find(_MAGIC, at + 1)) >= 0:
        begins = at - _MAGIC_AT
        if begins < 0 or begins % _BLOCK or begins + _BLOCK > len(window):
            continue
        try:
            block = window[begins : begins + _BLOCK]
            header = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
        except tarfile.TarError:
            continue
        if header.size >= 0:
            return begins, header
    return None
