"""Open Parquet files whose footers may lie.

pyarrow isn't asked what the footer says of a column: where that contradicts the schema, pyarrow ends the
process, since `RowGroupMetaData.column` doesn't catch `parquet::ParquetException`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

import pyarrow.parquet as pq

from actors.errors import ShardError
from actors.read.compact_thrift import (
    BINARY,
    I32,
    I64,
    UNCOUNTED,
    ThriftError,
    TooLongThriftError,
    Wanted,
    read_struct,
)
from actors.storage.store_file import StoreFile

_BUFFER_BYTES = 2**20
_TAIL = 8
"""The length of the footer, as four bytes, and the magic number."""

_FOOTER_BYTES = 2**20
_FOOTER_SHARE = 0.01
"""Besides the statistics of columns, a footer may have this many bytes, or such a share of its file. pyarrow
takes more than 200 times its size if it is made of empty structs."""
_WHOLE_FOOTER_BYTES = 128 * 2**20
"""With statistics, a footer may have this many bytes. Some writers put the least and the greatest value into
them, which are two whole images for each row group. Opening the file takes three times their size."""
_ARROW_SCHEMA_BYTES = 8 * 2**10
"""pyarrow's own schema in a footer isn't looked at if it has more bytes. Its parts can be shared, and a name
is copied for each reference to it, so that what pyarrow takes grows with the square of its size."""
_ARROW_SCHEMA, _UNKNOWN = b"ARROW:schema", b"ARROW:ignore"
"""The name of pyarrow's schema, and one of the same length that pyarrow doesn't know."""
_PATH_BYTES = 16 * 2**20
"""pyarrow keeps the path of each column. Thousands of columns can share parents with long names."""

_FOOTER: Wanted = {
    2: [{4: BINARY, 5: I32}],
    4: [{1: [{3: {4: I32, 5: I64, 7: I64, 9: I64, 11: I64, 12: UNCOUNTED}}], 3: I64}],
    5: [{1: BINARY, 2: BINARY}],
}
"""Of the footer: the name and the number of children of each element of the schema, parents first; for each
row group its number of rows, and for each of its columns the codec, the number of values, the compressed size
and the positions of data and dictionary. The statistics aren't read. The lengths of key and value of its
metadata. Source: `parquet.thrift` of Apache Parquet."""


@dataclass(frozen=True, slots=True)
class ColumnChunk:
    """What a footer says of a column in a row group.

    Attributes:
        codec: Number of the codec.
        values: Number of values.
        start: Position of its first page.
        size_bytes: Size of its pages, compressed.
    """

    codec: int
    values: int
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group: its number of rows, and its columns in the order of the schema's leaves."""

    rows: int
    columns: tuple[ColumnChunk, ...]


@dataclass(frozen=True, slots=True)
class _Footer:
    """What a footer says, its position, and whether pyarrow must not see its own schema in it."""

    groups: tuple[RowGroup, ...]
    begin: int
    hides_schema: bool


class _Hiding(StoreFile):
    """A Parquet file in whose footer the name of pyarrow's schema is another one."""

    def __init__(self, file: StoreFile, footer_at: int) -> None:
        super().__init__(cast("IO[bytes]", file))
        self._footer_at = footer_at

    def read(self, size: int = -1) -> bytes:
        """Read as a file does. Raises what its file raises."""
        position = self.tell()
        data = self._file.read(size)
        stop = position + len(data)
        if stop <= self._footer_at:
            return data
        # A name may begin before what is read, or end after it.
        before = min(position, len(_ARROW_SCHEMA))
        self.seek(position - before)
        around = self._file.read(before + len(data) + len(_ARROW_SCHEMA))
        self.seek(stop)
        return around.replace(_ARROW_SCHEMA, _UNKNOWN)[before : before + len(data)]


@dataclass(frozen=True, slots=True)
class OpenParquet:
    """A Parquet file, what its footer says of its row groups, and the path of each of the schema's leaves."""

    file: pq.ParquetFile
    groups: tuple[RowGroup, ...]
    paths: tuple[tuple[str, ...], ...]


def open_parquet(file: StoreFile) -> OpenParquet:
    """Return a Parquet file whose footer has been read. Columns are read forward in steps of 1 MiB.

    Raises:
        ShardError: It isn't Parquet, is damaged, or the footer would take far more memory than it should.
        ArrowException, OSError: It isn't Parquet, or is damaged.
        StoreError: The store failed.
    """
    footer = _read_footer(file)
    if footer is None:
        # pyarrow says what it is instead.
        pq.ParquetFile(file)
        raise ShardError("not Parquet: it has no footer")
    shown = _Hiding(file, footer.begin) if footer.hides_schema else file
    opened = pq.ParquetFile(shown, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    return OpenParquet(opened, footer.groups, tuple(map(tuple, opened.reader.column_paths)))


def _row_group(group: dict[int, Any]) -> RowGroup:
    return RowGroup(group.get(3, -1), tuple(_column(column.get(3, {})) for column in group.get(1, ())))


def _column(described: dict[int, int]) -> ColumnChunk:
    start, dictionary_at = described.get(9, -1), described.get(11, 0)
    # As pyarrow takes it.
    if 0 < dictionary_at < start:
        start = dictionary_at
    return ColumnChunk(described.get(4, -1), described.get(5, -1), start, described.get(7, -1))


def _read_footer(file: StoreFile) -> _Footer | None:
    """Return what the footer says, or None if there is none."""
    size_bytes = file.seek(0, 2)
    file.seek(max(0, size_bytes - _TAIL))
    tail = file.read(_TAIL)
    footer_bytes = int.from_bytes(tail[:4], "little")
    read = None
    if tail[4:] == b"PAR1" and footer_bytes <= size_bytes - _TAIL:
        most_bytes = int(max(_FOOTER_BYTES, _FOOTER_SHARE * size_bytes))
        if footer_bytes > max(_WHOLE_FOOTER_BYTES, most_bytes):
            raise ShardError(
                f"its footer has {footer_bytes} bytes, of {_WHOLE_FOOTER_BYTES} that it may have; write "
                "larger row groups, or no statistics of images"
            )
        begin = size_bytes - _TAIL - footer_bytes
        file.seek(begin)
        try:
            found, _ = read_struct(file.read(footer_bytes), _FOOTER, most_bytes=most_bytes)
        except TooLongThriftError as error:
            raise ShardError(
                f"its footer has more than {most_bytes} of {size_bytes} bytes besides statistics, which is "
                "too much for images; write larger row groups"
            ) from error
        except ThriftError as error:
            raise ShardError(f"not Parquet, or damaged: the footer can't be read: {error}") from error
        if _path_bytes(found.get(2, [])) > _PATH_BYTES:
            raise ShardError(f"the names of its columns have more than {_PATH_BYTES} bytes")
        groups = tuple(_row_group(group) for group in found.get(4, ()))
        read = _Footer(groups, begin, _has_large_schema(found.get(5, [])))
    file.seek(0)
    return read


def _has_large_schema(metadata: Sequence[dict[int, Any]]) -> bool:
    """Return whether a value is large whose name is as long as that of pyarrow's schema.

    Args:
        metadata: The lengths of key and value of the footer's metadata.
    """
    values = (pair.get(2, 0) for pair in metadata if pair.get(1) == len(_ARROW_SCHEMA))
    return max(values, default=0) > _ARROW_SCHEMA_BYTES


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
