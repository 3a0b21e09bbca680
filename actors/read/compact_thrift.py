"""Look into Thrift structs of the compact protocol, such as Parquet's, without building them.

Apache Thrift's library for Python would build everything that a struct is said to hold. This reads only what
is asked for, and takes time in proportion to the bytes. Source: `doc/specs/thrift-compact-protocol.md` in
Apache Thrift's repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)

Wanted: TypeAlias = "Mapping[int, int | Wanted | list[Wanted]]"
"""What to read of a struct, by the numbers of fields: I32 or I64 for an integer, BINARY for the length of a
text, TRUE for a truth value, a mapping for a struct, a list with a mapping for a list of structs."""

_MOST_LEVELS = 64


class ThriftError(ValueError):
    """The bytes are no struct that a Parquet writer would write."""


class TruncatedThriftError(ThriftError):
    """The struct goes on after the end of the bytes."""


def read_struct(data: bytes, wanted: Wanted, at: int = 0) -> tuple[dict[int, Any], int]:
    """Return the wanted fields that a struct has, and the position after it.

    Fields must be in the order of their numbers, as every writer writes them, so that no reader can take
    another of two values.

    Args:
        data: The bytes.
        wanted: What to read. A field of another type isn't read.
        at: Position of the struct.

    Raises:
        TruncatedThriftError: The bytes end within the struct.
        ThriftError: The bytes are damaged, or nested more than 64 levels deep.
    """
    try:
        return _read_struct(data, wanted, at, 0)
    except IndexError as error:
        raise TruncatedThriftError("it is truncated") from error


def _read_struct(data: bytes, wanted: Wanted, at: int, level: int) -> tuple[dict[int, Any], int]:
    _check_level(level)
    found: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        kind, before = head & 15, number
        if head >> 4:
            number += head >> 4
        else:
            number, at = read_varint(data, at)
            number = _signed(number)
        if number <= before:
            raise ThriftError("its fields are out of order")
        wish = wanted.get(number)
        if wish is None:
            at = _skip(kind, data, at, level)
        elif wish == TRUE and kind in (TRUE, FALSE):
            found[number] = kind == TRUE
        elif isinstance(wish, int):
            value, end = _read_number(kind, data, at, level)
            if kind == wish:
                found[number] = value
            at = end
        elif kind == STRUCT and not isinstance(wish, list):
            found[number], at = _read_struct(data, wish, at, level + 1)
        elif kind == LIST and isinstance(wish, list):
            found[number], at = _read_structs(data, wish[0], at, level)
        else:
            at = _skip(kind, data, at, level)
    return found, at + 1


def _read_number(kind: int, data: bytes, at: int, level: int) -> tuple[int, int]:
    """Return an integer, or the length of a text, and the position after it; 0 for other types."""
    if kind in (I16, I32, I64):
        raw, at = read_varint(data, at)
        return _signed(raw), at
    if kind == BINARY:
        size, at = read_varint(data, at)
        return size, _end_of_bytes(data, at, size)
    return 0, _skip(kind, data, at, level)


def _read_structs(data: bytes, wanted: Wanted, at: int, level: int) -> tuple[list[dict[int, Any]], int]:
    inner, count, at = _list_head(data, at)
    if inner != STRUCT:
        raise ThriftError("a list has elements of another type")
    found = []
    for _ in range(count):
        struct, at = _read_struct(data, wanted, at, level + 1)
        found.append(struct)
    return found, at


def _skip(kind: int, data: bytes, at: int, level: int, is_element: bool = False) -> int:
    """Return the position after a value. A truth value takes a byte only as the element of a list."""
    if kind in (I16, I32, I64):
        while data[at] > 127:
            at += 1
        return at + 1
    if kind == BINARY:
        size, at = read_varint(data, at)
        return _end_of_bytes(data, at, size)
    if kind == STRUCT:
        return _read_struct(data, {}, at, level + 1)[1]
    if kind in (TRUE, FALSE):
        return at + is_element
    if kind == BYTE:
        return at + 1
    if kind == DOUBLE:
        return at + 8
    if kind in (LIST, SET):
        _check_level(level)
        inner, count, at = _list_head(data, at)
        for _ in range(count):
            at = _skip(inner, data, at, level + 1, is_element=True)
            if at > len(data):
                raise IndexError
        return at
    # Parquet has no maps.
    raise ThriftError(f"it has a value of type {kind}")


def _check_level(level: int) -> None:
    if level > _MOST_LEVELS:
        raise ThriftError("it is nested too deep")


def _list_head(data: bytes, at: int) -> tuple[int, int, int]:
    head = data[at]
    count, at = head >> 4, at + 1
    if count == 15:
        count, at = read_varint(data, at)
    return head & 15, count, at


def _end_of_bytes(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError
    return at + size


def read_varint(data: bytes, at: int) -> tuple[int, int]:
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


def _signed(raw: int) -> int:
    return raw >> 1 ^ -(raw & 1)
