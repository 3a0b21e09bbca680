"""Thrift structs in the compact protocol, to build footers and page headers that no writer would write.

A struct is a dict from the number of a field to its type and value. A list is the type of its elements and
a Python list. Source: the specification of the compact protocol in Apache Thrift's repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)

Struct = dict[int, tuple[int, Any]]


def encode(struct: Struct) -> bytes:
    """Return a struct as bytes."""
    out = bytearray()
    before = 0
    for number, (kind, value) in sorted(struct.items()):
        gap = number - before
        out += bytes([gap << 4 | kind]) if 0 < gap < 16 else bytes([kind]) + varint(zigzag(number))
        if kind not in (TRUE, FALSE):
            out += _encode_value(kind, value)
        before = number
    return bytes(out + b"\0")


def decode(data: bytes, start: int = 0) -> tuple[Struct, int]:
    """Return the struct that begins at a position, and the position after it."""
    struct: Struct = {}
    number, at = 0, start
    while data[at]:
        gap, kind = data[at] >> 4, data[at] & 15
        at += 1
        if gap:
            number += gap
        else:
            raw, at = _read_varint(data, at)
            number = _unzigzag(raw)
        value: Any = None
        if kind not in (TRUE, FALSE):
            value, at = _decode_value(kind, data, at)
        struct[number] = (kind, value)
    return struct, at + 1


def numbers(struct: Struct) -> Iterator[tuple[Struct, int]]:
    """Yield where the integers of a struct are: the struct within it, and the number of the field."""
    for number, (kind, value) in struct.items():
        if kind in (I16, I32, I64):
            yield struct, number
        elif kind == STRUCT:
            yield from numbers(value)
        elif kind == LIST and value[0] == STRUCT:
            for item in value[1]:
                yield from numbers(item)


def _encode_value(kind: int, value: Any) -> bytes:
    if kind in (BYTE, DOUBLE):
        return bytes(value)
    if kind in (I16, I32, I64):
        return varint(zigzag(value))
    if kind == BINARY:
        return varint(len(value)) + value
    if kind == STRUCT:
        return encode(value)
    if kind in (LIST, SET):
        inner, items = value
        head = (
            bytes([len(items) << 4 | inner])
            if len(items) < 15
            else bytes([0xF0 | inner]) + varint(len(items))
        )
        return head + b"".join(_encode_value(inner, item) for item in items)
    raise ValueError(f"no code for type {kind}")


def _decode_value(kind: int, data: bytes, at: int) -> tuple[Any, int]:
    if kind in (TRUE, FALSE, BYTE):
        return data[at : at + 1], at + 1
    if kind == DOUBLE:
        return data[at : at + 8], at + 8
    if kind in (I16, I32, I64):
        raw, at = _read_varint(data, at)
        return _unzigzag(raw), at
    if kind == BINARY:
        size, at = _read_varint(data, at)
        return data[at : at + size], at + size
    if kind == STRUCT:
        return decode(data, at)
    if kind in (LIST, SET):
        inner, count = data[at] & 15, data[at] >> 4
        at += 1
        if count == 15:
            count, at = _read_varint(data, at)
        items = []
        for _ in range(count):
            item, at = _decode_value(inner, data, at)
            items.append(item)
        return (inner, items), at
    raise ValueError(f"no code for type {kind}")


def zigzag(value: int) -> int:
    """Return a number with a sign as one without."""
    return value << 1 ^ value >> 63


def _unzigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)


def varint(value: int) -> bytes:
    """Return a number without a sign, as seven bits a byte."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] > 127:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
    return value | data[at] << shift, at + 1
