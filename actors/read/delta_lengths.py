"""Check the delta-encoded lengths of a Parquet page, whose number pyarrow believes and all of which it holds.

Source: `Encodings.md` in Apache Parquet's repository, "Delta encoding".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from actors.read.compact_thrift import ThriftError, read_varint, signed

DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY = 6, 7
_LONGEST = 2**31


def check_lengths(values: memoryview, encoding: int, most: int) -> None:
    """Check that a page has no more lengths than values.

    Args:
        values: The page without its levels, decompressed.
        encoding: DELTA_LENGTH_BYTE_ARRAY or DELTA_BYTE_ARRAY, which has lengths of prefixes and of suffixes.
        most: How many values the page states.

    Raises:
        ThriftError: It has more, or they are damaged.
    """
    try:
        end = _check_block(values, 0, most)
        if encoding == DELTA_BYTE_ARRAY:
            _check_block(values, end, most)
    except IndexError as error:
        raise ThriftError("its lengths are truncated") from error


def largest_run(values: memoryview, count: int) -> int:
    """Return the largest size that consecutive values of a page in DELTA_BYTE_ARRAY have together, in bytes.

    A value begins with a part of the one before, so values can be much larger than the page.

    Args:
        values: The page without its levels, decompressed, whose lengths are checked.
        count: How many consecutive values.

    Raises:
        ThriftError: A length is none that a value has.
    """
    run: deque[int] = deque(maxlen=count)
    size = largest = 0
    try:
        suffixes_at = _check_block(values, 0, _LONGEST)
        # Where one list is longer, its rest belongs to no value.
        for prefix, suffix in zip(_lengths(values, 0), _lengths(values, suffixes_at), strict=False):
            size += prefix + suffix - (run[0] if len(run) == count else 0)
            run.append(prefix + suffix)
            largest = max(largest, size)
    except IndexError as error:
        raise ThriftError("its lengths are truncated") from error
    return largest


class _Head(NamedTuple):
    """What is before lengths in DELTA_BINARY_PACKED: how they are divided, their number and the first one."""

    block: int
    groups: int
    total: int
    first: int
    end: int


def _read_head(data: memoryview, at: int) -> _Head:
    block, at = read_varint(data, at)
    groups, at = read_varint(data, at)
    total, at = read_varint(data, at)
    first, at = read_varint(data, at)
    if not groups or block % groups or not (size := block // groups) or size % 8:
        raise ThriftError("its lengths are damaged")
    return _Head(block, groups, total, signed(first), at)


def _check_block(data: memoryview, at: int, most: int) -> int:
    """Check lengths in DELTA_BINARY_PACKED, and return the position after them."""
    head = _read_head(data, at)
    if head.total > most:
        raise ThriftError(f"it has {head.total} lengths for {most} values")
    at, left, size = head.end, head.total - 1, head.block // head.groups
    while left > 0:
        _, at = read_varint(data, at)
        widths = data[at : at + head.groups]
        if len(widths) < head.groups:
            raise IndexError
        at += head.groups
        for width in widths[: -(-left // size)]:
            at += size * width // 8
        left -= head.block
    return at


def _lengths(data: memoryview, at: int) -> Iterator[int]:
    """Yield lengths in DELTA_BINARY_PACKED."""
    head = _read_head(data, at)
    length, at, left, size = head.first, head.end, head.total, head.block // head.groups
    if left:
        yield _checked(length)
    left -= 1
    while left > 0:
        least, at = read_varint(data, at)
        widths = data[at : at + head.groups]
        at += head.groups
        for width in widths[: -(-left // size)]:
            for number in range(min(size, left)):
                byte, bit = divmod(number * width, 8)
                packed = int.from_bytes(data[at + byte : at + byte + (bit + width + 7) // 8], "little")
                length += signed(least) + (packed >> bit & (1 << width) - 1)
                yield _checked(length)
            at += size * width // 8
            left -= size


def _checked(length: int) -> int:
    if not 0 <= length < _LONGEST:
        raise ThriftError(f"it has a length of {length}")
    return length
