"""Open Parquet files whose footers may lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

import pyarrow.parquet as pq

from actors.errors import ShardError
from actors.read.compact_thrift import BINARY, I32, ThriftError, Wanted, read_struct
from actors.storage.store_file import StoreFile

_BUFFER_BYTES = 2**20
_TAIL = 8
"""The length of the footer, as four bytes, and the magic number."""

_FOOTER_BYTES = 2**20
_FOOTER_SHARE = 0.01
"""A footer is taken if it is as short as this, or such a share of its file. pyarrow takes more than 200 times
its size if it is made of empty structs."""
_PATH_BYTES = 16 * 2**20
"""pyarrow keeps the path of each column. Thousands of columns can share parents with long names."""

_SCHEMA: Wanted = {2: [{4: BINARY, 5: I32}]}
"""Of the footer: the name and the number of children of each element of the schema, parents first."""


def open_parquet(file: StoreFile) -> pq.ParquetFile:
    """Return a Parquet file whose footer has been read. Columns are read forward in steps of 1 MiB.

    Raises:
        ShardError: The footer would take far more memory than it should.
        ArrowException, OSError: The file isn't Parquet, or is damaged.
        StoreError: The store failed.
    """
    _check_footer(file)
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _check_footer(file: IO[bytes] | StoreFile) -> None:
    size_bytes = file.seek(0, 2)
    file.seek(max(0, size_bytes - _TAIL))
    tail = file.read(_TAIL)
    footer_bytes = int.from_bytes(tail[:4], "little")
    # What isn't Parquet, or is encrypted, pyarrow refuses by itself.
    if tail[4:] == b"PAR1" and footer_bytes <= size_bytes - _TAIL:
        if footer_bytes > max(_FOOTER_BYTES, _FOOTER_SHARE * size_bytes):
            raise ShardError(
                f"its footer has {footer_bytes} of {size_bytes} bytes, which is too much for images; write "
                "larger row groups"
            )
        file.seek(size_bytes - _TAIL - footer_bytes)
        try:
            found, _ = read_struct(file.read(footer_bytes), _SCHEMA)
        except ThriftError as error:
            raise ShardError(f"not Parquet, or damaged: the footer can't be read: {error}") from error
        if _path_bytes(found.get(2, [])) > _PATH_BYTES:
            raise ShardError(f"the names of its columns have more than {_PATH_BYTES} bytes")
    file.seek(0)


def _path_bytes(elements: Sequence[dict[int, Any]]) -> int:
    """Return the length of all columns' paths together, each with the names of its parents.

    Args:
        elements: The elements of the schema: length of the name, number of children. The first is the root,
            whose name isn't in the paths.
    """
    total = 0
    parents: list[list[int]] = []
    for number, element in enumerate(elements):
        while parents and parents[-1][0] == 0:
            parents.pop()
        above = 0
        if parents:
            parents[-1][0] -= 1
            above = parents[-1][1]
        length = above + (element.get(4, 0) + 1 if number else 0)
        children = element.get(5, 0)
        if children > 0:
            parents.append([children, length])
        else:
            total += length
    return total
