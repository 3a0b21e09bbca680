"""Look into Thrift structs of the compact protocol, such as Parquet's, without building them.

Apache Thrift's library for Python would build everything that a struct is said to hold. This reads only what
is asked for, and takes time in proportion to the bytes. Source: `doc/specs/thrift-compact-protocol.md` in
Apache Thrift's repository.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeAlias

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
UNCOUNTED = 0
_INTEGERS = (I16, I32, I64)

Wanted: TypeAlias = "Mapping[int, int | Wanted | list[Wanted]]"
"""What to read of a struct, by the numbers of fields: I32 or I64 for an integer, BINARY for the length of a
text, TRUE for a truth value, a mapping for a struct, a list with a mapping for a list of structs. A field
that is UNCOUNTED isn't read, and its texts don't count towards the bytes that the struct may have."""

_MOST_LEVELS = 64
_LARGEST_FIELD = 2**15 - 1


class ThriftError(ValueError):
    """The bytes are no struct that a Parquet writer would write."""


class TruncatedThriftError(ThriftError):
    """The struct goes on after the end of the bytes."""


class TooLongThriftError(ThriftError):
    """The struct has more bytes than it may have."""


def read_struct(
    data: bytes, wanted: Wanted, at: int = 0, most_bytes: int = sys.maxsize
) -> tuple[dict[int, Any], int]:
    """Return the wanted fields that a struct has, and the position after it.

    Fields must be in the order of their numbers, as every writer writes them, so that no reader can take
    another of two values.

    Args:
        data: The bytes.
        wanted: What to read. A field of another type isn't read.
        at: Position of the struct.
        most_bytes: How many bytes the struct may have, without UNCOUNTED texts.

    Raises:
        TruncatedThriftError: The bytes end within the struct.
        TooLongThriftError: It has more bytes than it may have.
        ThriftError: The bytes are damaged, or nested more than 64 levels deep.
    """
    reader = _Reader(data, at + most_bytes)
    try:
        found, end = reader.read(wanted, at, 0)
    except IndexError as error:
        raise TruncatedThriftError("it is truncated") from error
    reader.check_length(end)
    return found, end


class _Reader:
    """Reads structs of some bytes, and counts the bytes of texts that don't count."""

    __slots__ = ("_are_texts_counted", "_data", "_stop", "_uncounted_bytes")

    def __init__(self, data: bytes, stop: int) -> None:
        self._data = data
        self._stop = stop
        self._uncounted_bytes = 0
        self._are_texts_counted = True

    def check_length(self, at: int) -> None:
        """Check that no more is read until a position than may be. Raises TooLongThriftError."""
        if at - self._uncounted_bytes > self._stop:
            raise TooLongThriftError("it has more bytes than it may have")

    def read(self, wanted: Wanted, at: int, level: int) -> tuple[dict[int, Any], int]:
        """Return the wanted fields of the struct at a position, and the position after it."""
        _check_level(level)
        self.check_length(at)
        data = self._data
        found: dict[int, Any] = {}
        number = 0
        while head := data[at]:
            at += 1
            kind, before = head & 15, number
            if head >> 4:
                number += head >> 4
            else:
                number, at = read_varint(data, at)
                number = signed(number)
            _check_number(number, before)
            wish = wanted.get(number)
            if wish is None:
                at = self._skip(kind, at, level)
            elif wish == UNCOUNTED:
                self._are_texts_counted = False
                at = self._skip(kind, at, level)
                self._are_texts_counted = True
            elif wish == TRUE and kind in (TRUE, FALSE):
                found[number] = kind == TRUE
            elif isinstance(wish, int):
                value, end = self._read_number(kind, at, level)
                if kind == wish:
                    found[number] = value
                at = end
            elif kind == STRUCT and not isinstance(wish, list):
                found[number], at = self.read(wish, at, level + 1)
            elif kind == LIST and isinstance(wish, list):
                found[number], at = self._read_structs(wish[0], at, level)
            else:
                at = self._skip(kind, at, level)
        return found, at + 1

    def _read_number(self, kind: int, at: int, level: int) -> tuple[int, int]:
        """Return an integer, or the length of a text, and the position after it; 0 for other types."""
        if kind in _INTEGERS:
            raw, at = read_varint(self._data, at)
            return signed(raw), at
        if kind == BINARY:
            size, at = read_varint(self._data, at)
            return size, self._end_of_text(at, size)
        return 0, self._skip(kind, at, level)

    def _read_structs(self, wanted: Wanted, at: int, level: int) -> tuple[list[dict[int, Any]], int]:
        inner, count, at = _list_head(self._data, at)
        if count and inner != STRUCT:
            raise ThriftError("a list has elements of another type")
        found = []
        for _ in range(count):
            struct, at = self.read(wanted, at, level + 1)
            found.append(struct)
        return found, at

    def _skip(self, kind: int, at: int, level: int, is_element: bool = False) -> int:
        """Return the position after a value. A truth value takes a byte only as the element of a list."""
        data = self._data
        if kind in _INTEGERS:
            return _skip_integers(data, at, 1)
        if kind == BINARY:
            size, at = read_varint(data, at)
            return self._end_of_text(at, size)
        if kind == STRUCT:
            return self.read({}, at, level + 1)[1]
        if kind in (TRUE, FALSE):
            return at + is_element
        if kind == BYTE:
            return at + 1
        if kind == DOUBLE:
            return at + 8
        if kind in (LIST, SET):
            _check_level(level)
            inner, count, at = _list_head(data, at)
            self.check_length(at + count)
            if inner in _INTEGERS:
                return _skip_integers(data, at, count)
            for _ in range(count):
                at = self._skip(inner, at, level + 1, is_element=True)
                if at > len(data):
                    raise IndexError
            return at
        # Parquet has no maps.
        raise ThriftError(f"it has a value of type {kind}")

    def _end_of_text(self, at: int, size: int) -> int:
        if at + size > len(self._data):
            raise IndexError
        if not self._are_texts_counted:
            self._uncounted_bytes += size
        return at + size


def _skip_integers(data: bytes, at: int, count: int) -> int:
    for _ in range(count):
        while data[at] > 127:
            at += 1
        at += 1
    return at


def _check_number(number: int, before: int) -> None:
    if number <= before:
        raise ThriftError("its fields are out of order")
    if number > _LARGEST_FIELD:
        # Other readers keep 16 bits of it, and take it for another field.
        raise ThriftError(f"it has a field {number}")


def _check_level(level: int) -> None:
    if level > _MOST_LEVELS:
        raise ThriftError("it is nested too deep")


def _list_head(data: bytes, at: int) -> tuple[int, int, int]:
    head = data[at]
    count, at = head >> 4, at + 1
    if count == 15:
        count, at = read_varint(data, at)
    return head & 15, count, at


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the number without a sign at a position, and the position after it.

    Raises:
        IndexError: The bytes end within it.
        ThriftError: It has more than 64 bits.
    """
    value = shift = 0
    while (byte := data[at]) > 127:
        value |= (byte & 127) << shift
        shift += 7
        at += 1
        if shift > 63:
            raise ThriftError("a number has more than 64 bits")
    return value | byte << shift, at + 1


def signed(raw: int) -> int:
    """Return a number with the sign that its zigzag encoding has."""
    return raw >> 1 ^ -(raw & 1)
