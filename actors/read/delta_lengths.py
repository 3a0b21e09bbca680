"""Check the delta-encoded lengths of a Parquet page, whose number pyarrow believes and all of which it holds.

Source: `Encodings.md` in Apache Parquet's repository, "Delta encoding".
"""

from __future__ import annotations

from actors.read.compact_thrift import ThriftError, read_varint

DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY = 6, 7


def check_lengths(values: bytes, encoding: int, most: int) -> None:
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


def _check_block(data: bytes, at: int, most: int) -> int:
    """Check lengths in DELTA_BINARY_PACKED, and return the position after them."""
    block, at = read_varint(data, at)
    groups, at = read_varint(data, at)
    total, at = read_varint(data, at)
    _, at = read_varint(data, at)
    if total > most:
        raise ThriftError(f"it has {total} lengths for {most} values")
    if not groups or block % groups or not (size := block // groups) or size % 8:
        raise ThriftError("its lengths are damaged")
    left = total - 1
    while left > 0:
        _, at = read_varint(data, at)
        widths = data[at : at + groups]
        if len(widths) < groups:
            raise IndexError
        at += groups
        for width in widths[: -(-left // size)]:
            at += size * width // 8
        left -= block
    return at
