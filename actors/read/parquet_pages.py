"""Hold the pages of a Parquet file to what they may take in memory, before pyarrow makes room for them.

pyarrow believes the sizes and counts in the headers of pages, of which a hundred bytes can ask for gigabytes,
and has no limit of its own. The sizes that the footer states for a column aren't looked at: pages are what is
read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO

import pyarrow as pa

from actors.errors import ShardError
from actors.read import hadoop_lz4
from actors.read.compact_thrift import (
    I32,
    TRUE,
    UNCOUNTED,
    ThriftError,
    TruncatedThriftError,
    Wanted,
    read_struct,
)
from actors.read.delta_lengths import DELTA_BYTE_ARRAY, DELTA_LENGTH_BYTE_ARRAY, check_lengths, largest_run
from actors.read.expansion import check_expansion
from actors.read.file_names import clean_text
from actors.read.parquet_file import ColumnChunk, OpenParquet
from actors.storage.store_file import StoreFile

_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_2 = 0, 2, 3
_DATA_PAGES = (_DATA_PAGE, _DATA_PAGE_2)
_HEADER: Wanted = {
    1: I32,
    2: I32,
    3: I32,
    5: {1: I32, 2: I32, 3: I32, 4: I32, 5: UNCOUNTED},
    7: {1: I32},
    8: {1: I32, 4: I32, 5: I32, 6: I32, 7: TRUE, 8: UNCOUNTED},
}
"""Of a page's header: type, size before and after compression, and the header of its type: number of values,
encoding, and those of the levels (v1), or their sizes and whether the values are compressed (v2). The
statistics aren't read. Source: `parquet.thrift` of Apache Parquet."""
_HEADER_BYTES = (2**10, 2**16, 2**20, 2**24)
"""How much is read of a header, until it is whole. pyarrow reads as much: statistics can have two images."""
_MOST_HEADER_BYTES = 2**20
"""How much a header may have besides statistics."""
_RLE = 3
_UNCOMPRESSED, _HADOOP_LZ4 = 0, 5
_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
"""Parquet's codecs, as pyarrow calls them."""
_LONGEST_NAME = 200
_OLD_WRITERS_MORE_BYTES = 100
"""pyarrow reads so many bytes more of a column by a writer that left its dictionary out of the size."""

_PAGE_BYTES = 128 * 2**20
_PAGE_TIMES = 4
"""A larger page is refused if it expands by more than this. One of many images is large in the file, too."""
_VALUE_BYTES = 32
"""What pyarrow takes for a dictionary's value, besides its content."""
_EMPTY_PAGES = 1000
ROWS_AT_ONCE = 16
"""How many rows are read at once. Values that share prefixes can each be as large as their page, and are held
besides it."""


@dataclass(slots=True)
class _ColumnWalk:
    """How far the pages of a column chunk are checked.

    Attributes:
        chunk: What the footer says of it.
        path: Its name, with dots.
        has_levels: Whether its values have definition levels.
        start: Where the chunk begins.
        next: Position of the next header.
        end: Where the chunk ends.
        values_left: Number of values in the pages from there on.
        dictionary_bytes: Size of the dictionary; 0 if it has none.
        empty_pages: Number of pages without values until there.
    """

    chunk: ColumnChunk
    path: str
    has_levels: bool
    start: int
    next: int
    end: int
    values_left: int
    dictionary_bytes: int = 0
    empty_pages: int = 0


@dataclass(frozen=True, slots=True)
class _Page:
    kind: int
    size_bytes: int
    compressed_bytes: int
    values: int
    details: dict[int, int]
    content_at: int


class PageWatch(StoreFile):
    """A file whose pages are checked as pyarrow comes to read them."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._walks: list[_ColumnWalk] = []
        self._expanded_bytes = 0
        self.size_bytes = file.seek(0, 2)
        file.seek(0)

    def watch(self, parquet: OpenParquet, group: int, columns: Iterable[int]) -> int:
        """Check the pages of these columns of a row group, none of which is in a list, from now on.

        Returns:
            Size of the largest dictionary among the columns, in bytes.

        Raises:
            ShardError: The first page of one is a bomb or damaged.
            StoreError: The store failed.
        """
        self._walks = [self._walk(parquet, group, column) for column in columns]
        for walk in self._walks:
            if walk.values_left > 0:
                self._check_page(walk)
        return max((walk.dictionary_bytes for walk in self._walks), default=0)

    def read(self, size: int = -1) -> bytes:
        """Read as a file does.

        Raises:
            ShardError: A page that begins in what is read is a bomb or damaged.
            StoreError: The store failed.
        """
        position = self._file.tell()
        stop = self.size_bytes if size < 0 else position + size
        for walk in self._walks:
            if position < walk.end and walk.start < stop:
                while walk.values_left > 0 and walk.next < min(stop, walk.end):
                    self._check_page(walk)
        self._file.seek(position)
        return super().read(size)

    def _walk(self, parquet: OpenParquet, group: int, column: int) -> _ColumnWalk:
        rows, chunks = parquet.groups[group].rows, parquet.groups[group].columns
        metadata = parquet.file.metadata
        described = metadata.schema.column(column)
        name = clean_text(described.path)[:_LONGEST_NAME]
        if column >= len(chunks):
            raise ShardError(f"damaged: row group {group} has no column {name!r}")
        chunk = chunks[column]
        end = chunk.start + chunk.size_bytes
        if not 0 <= chunk.start <= end <= self.size_bytes:
            raise ShardError(
                f"damaged: column {name!r} is said to be at bytes {chunk.start} to {end} of {self.size_bytes}"
            )
        if chunk.values != rows:
            # Lists are not read.
            raise ShardError(f"damaged: column {name!r} has {chunk.values} values in {rows} rows")
        if "parquet-mr" in (metadata.created_by or ""):
            end += _OLD_WRITERS_MORE_BYTES
        has_levels = described.max_definition_level > 0
        return _ColumnWalk(chunk, name, has_levels, chunk.start, chunk.start, end, rows)

    def _check_page(self, walk: _ColumnWalk) -> None:
        try:
            page = self._page(walk)
            _check_place(page, walk)
            _check_size(page)
            self._expanded_bytes += page.size_bytes
            check_expansion(self._expanded_bytes, self.size_bytes)
            if page.kind == _DICTIONARY_PAGE:
                walk.dictionary_bytes = page.size_bytes
            elif page.kind in _DATA_PAGES:
                self._check_lengths(page, walk)
                walk.values_left -= page.values
            walk.empty_pages += page.values == 0
        except ThriftError as error:
            raise ShardError(
                f"damaged: the page at byte {walk.next} of column {walk.path!r}: {error}"
            ) from error
        walk.next = page.content_at + page.compressed_bytes

    def _page(self, walk: _ColumnWalk) -> _Page:
        for most in _HEADER_BYTES:
            self._file.seek(walk.next)
            data = super().read(most)
            try:
                found, length = read_struct(data, _HEADER, most_bytes=_MOST_HEADER_BYTES)
            except TruncatedThriftError:
                if len(data) < most or most == _HEADER_BYTES[-1]:
                    raise
            else:
                break
        kind = found.get(1, -1)
        details = found.get({_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_2: 8}.get(kind, 0), {1: 0})
        numbers = [found.get(2, -1), found.get(3, -1), details.get(1, -1), *details.values()]
        if not all(0 <= number < 2**31 for number in numbers):
            raise ThriftError("its header has sizes that no page has")
        return _Page(kind, found[2], found[3], details[1], details, walk.next + length)

    def _check_lengths(self, page: _Page, walk: _ColumnWalk) -> None:
        """Check the numbers of lengths, which are within the compressed page."""
        is_new = page.kind == _DATA_PAGE_2
        encoding = page.details.get(4 if is_new else 2)
        if encoding not in (DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY):
            return
        self._file.seek(page.content_at)
        content = memoryview(super().read(page.compressed_bytes))
        levels = page.details.get(5, 0) + page.details.get(6, 0) if is_new else 0
        codec = walk.chunk.codec if page.details.get(7, True) else _UNCOMPRESSED
        values = _decompressed(content[levels:], codec, max(0, page.size_bytes - levels))
        if not is_new and walk.has_levels:
            if page.details.get(3) != _RLE:
                raise ThriftError("its levels are in an encoding that is read no more")
            values = values[4 + int.from_bytes(values[:4], "little") :]
        check_lengths(values, encoding, page.values)
        if encoding == DELTA_BYTE_ARRAY and page.size_bytes * ROWS_AT_ONCE > _most_bytes(page):
            _check_run(largest_run(values, ROWS_AT_ONCE) + page.size_bytes, page)


def _check_place(page: _Page, walk: _ColumnWalk) -> None:
    if page.kind == _DICTIONARY_PAGE and walk.next != walk.start:
        raise ThriftError("a dictionary is not the first page")
    if page.content_at + page.compressed_bytes > walk.end:
        raise ThriftError(f"it has {page.compressed_bytes} bytes, more than are left of its column")
    if page.kind in _DATA_PAGES and page.values > walk.values_left:
        raise ThriftError(f"it has {page.values} values for {walk.values_left} rows")
    if walk.empty_pages > _EMPTY_PAGES:
        raise ThriftError(f"it is after {_EMPTY_PAGES} pages without values")


def _check_size(page: _Page) -> None:
    size = page.size_bytes + (page.values * _VALUE_BYTES if page.kind == _DICTIONARY_PAGE else 0)
    if size > _most_bytes(page):
        raise ShardError(
            f"expands to {size} bytes in one page, from {page.compressed_bytes}: more than {_PAGE_TIMES} "
            "times its size, so it isn't made of images; write smaller pages, or without compression"
        )


def _check_run(size: int, page: _Page) -> None:
    if size > _most_bytes(page):
        raise ThriftError(
            f"it and {ROWS_AT_ONCE} of its values, which share prefixes (DELTA_BYTE_ARRAY), have {size} "
            f"bytes, of which they may have {_most_bytes(page)}; write it in PLAIN"
        )


def _most_bytes(page: _Page) -> int:
    return max(_PAGE_BYTES, _PAGE_TIMES * page.compressed_bytes)


def _decompressed(data: memoryview, codec: int, size_bytes: int) -> memoryview:
    if codec == _UNCOMPRESSED:
        return data
    if codec not in (*_CODECS, _HADOOP_LZ4):
        raise ThriftError(f"it is compressed by codec {codec}, which isn't read")
    try:
        if codec == _HADOOP_LZ4:
            return memoryview(hadoop_lz4.decompress(data, size_bytes))
        return memoryview(pa.Codec(_CODECS[codec]).decompress(data, size_bytes, asbytes=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ThriftError(f"it can't be decompressed ({error})") from error
