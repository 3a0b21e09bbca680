"""Decompress Parquet's codec LZ4, which Hadoop's writers used before LZ4_RAW.

pyarrow has it only within its reader. Source: `Compression.md` in Apache Parquet's repository, and Arrow's
`Lz4HadoopCodec`, which also takes a page that is one block of LZ4 without sizes.
"""

from __future__ import annotations

import pyarrow as pa

_PREFIX = 8
"""The size of a block after and before decompression, as four bytes each, the highest one first."""


def decompress(data: memoryview, size_bytes: int) -> bytes:
    """Return what is compressed, as Arrow reads it.

    Args:
        data: Blocks of LZ4, each after its sizes; or one block without them.
        size_bytes: The size after decompression.

    Raises:
        OSError: It is damaged, or could be read in both ways.
    """
    blocks = _blocks(data, size_bytes)
    try:
        whole = pa.Codec("lz4_raw").decompress(data, size_bytes, asbytes=True)
    except OSError:
        if blocks is None:
            raise
    else:
        if blocks is not None:
            raise OSError("it is both blocks with sizes and one without")
        return bytes(whole)
    return b"".join(pa.Codec("lz4_raw").decompress(block, size, asbytes=True) for block, size in blocks)


def _blocks(data: memoryview, size_bytes: int) -> list[tuple[memoryview, int]] | None:
    """Return the blocks with their sizes after decompression; None if the sizes don't fit."""
    blocks = []
    while len(data) >= _PREFIX:
        size, compressed = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:_PREFIX], "big")
        block, data = data[_PREFIX : _PREFIX + compressed], data[_PREFIX + compressed :]
        size_bytes -= size
        if len(block) < compressed or size_bytes < 0:
            return None
        blocks.append((block, size))
    return None if data else blocks
