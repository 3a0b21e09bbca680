"""Parquet files whose footers and page headers lie, written byte by byte: no library writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.corpus.kinds import BadShard
from tests.support import bad_inputs as bad
from tests.support import thrift_compact as t
from tests.support.parquet_bytes import (
    DELTA_LENGTHS,
    DELTA_PREFIXES,
    DICTIONARY,
    FIXED_BINARY,
    chunk,
    column,
    file_of,
    group_of,
    lengths,
    lengths_of,
    levels,
    page,
    plain,
    schema_of,
)
from tests.support.shared_arrow_schema import shared_arrow_schema
from tests.support.thrift_compact import Struct

_GIB_2 = 2**31 - 1
_LARGE_BYTES = 2**25


def images(pages: bytes, rows: int, groups: int = 1, **says: Any) -> bytes:
    """Return a file of one column of images."""
    return file_of(pages, [chunk(pages, rows, **says)], rows, groups=groups)


def one_image(codec: str = "", **options: Any) -> bytes:
    """Return a page of one image."""
    return page(levels(1) + plain(bad.jpeg()), 1, codec=codec, **options)


def _beside(camera: bytes, element: Struct, rows: int = 1, name: bytes = b"camera", **says: Any) -> bytes:
    """Return a file of a good image in each row and of another column.

    Args:
        camera: Pages of the other column.
        element: The column in the schema.
        rows: Number of rows.
        name: Path of the other column, with dots.
        **says: What the footer says of it.
    """
    good = page(levels(rows) + plain(*[bad.jpeg()] * rows), rows)
    chunks = [chunk(good, rows), chunk(camera, rows, at=4 + len(good), name=name, **says)]
    return file_of(good + camera, chunks, rows, schema_of(column(b"image"), element))


def _list_of_nulls() -> bytes:
    """Return a file whose one row has a list of 2 billion nulls."""
    many = t.varint((_GIB_2 - 1) << 1)
    repetition = t.varint(1 << 1) + b"\0" + many + b"\1"
    definition = t.varint(_GIB_2 << 1) + b"\1"
    data = b"".join(len(part).to_bytes(4, "little") + part for part in (repetition, definition))
    camera = page(data, _GIB_2)
    good = one_image()
    chunks = [chunk(good, 1), chunk(camera, 1, at=4 + len(good), name=b"camera.list.element", values=_GIB_2)]
    names = [
        group_of(b"schema", 2, 0),
        column(b"image"),
        {**group_of(b"camera", 1, 0), 6: (t.I32, 3)},
        group_of(b"list", 1, 2),
        column(b"element"),
    ]
    return file_of(good + camera, chunks, 1, names)


def _long_paths() -> bytes:
    """Return a file of 20,000 columns within structs of long names."""
    parents = [group_of(b"a" * 5000, 1) for _ in range(80)]
    parents[-1] = group_of(b"a", 20_000)
    schema = [group_of(b"schema", 1, 0), *parents, *[column(b"") for _ in range(20_000)]]
    return file_of(b"", [], 1, schema)


def _dictionary_bomb() -> bytes:
    """Return a file of 24 rows of the same 32 MiB, in a dictionary that the footer doesn't mention."""
    dictionary = page(plain(bytes(_LARGE_BYTES)), 1, kind=2, codec="zstd")
    rows = levels(24) + b"\1" + t.varint(24 << 1) + b"\0"
    return images(dictionary + page(rows, 24, DICTIONARY, codec="zstd"), 24, codec="zstd")


def _two_dictionaries() -> bytes:
    rows = levels(1) + b"\1" + t.varint(1 << 1) + b"\0"
    dictionary = page(plain(bad.jpeg()), 1, kind=2)
    return images(dictionary + page(rows, 1, DICTIONARY) + dictionary + page(rows, 1, DICTIONARY), 2)


def _endless() -> bytes:
    header, start = t.decode(one_image(codec="zstd"))
    header[3] = (t.I32, _GIB_2)
    return t.encode(header) + one_image(codec="zstd")[start:]


def _sizes_twice() -> bytes:
    """Return a file whose page states two sizes, of which readers may take either."""
    good = one_image(codec="zstd")
    header, end = t.decode(good)
    second = bytes([t.I32]) + t.varint(2 << 1) + t.varint(_GIB_2 << 1)
    return images(t.encode(header)[:-1] + second + b"\0" + good[end:], 1, codec="zstd")


def _many_lengths(codec: str) -> bytes:
    return images(
        page(levels(1) + lengths(_GIB_2), 1, DELTA_LENGTHS, codec=codec),
        1,
        encoding=DELTA_LENGTHS,
        codec=codec,
    )


def _shared_prefixes() -> bytes:
    """Return a file of 16 values, each of which is the first one of 30 MiB."""
    size = 30 * 2**20
    prefixes = lengths_of(0, *[size] * 15)
    suffixes = lengths_of(size, *[0] * 15)
    data = page(levels(16) + prefixes + suffixes + bytes(size), 16, DELTA_PREFIXES, codec="zstd")
    return images(data, 16, codec="zstd", encoding=DELTA_PREFIXES)


def _with_footer(good: bytes, change: Callable[[Struct], None]) -> bytes:
    """Return a file with a footer that is changed."""
    at = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    footer, _ = t.decode(good, at)
    change(footer)
    changed = t.encode(footer)
    return good[:at] + changed + len(changed).to_bytes(4, "little") + b"PAR1"


def _changedschema_of(element: int, field: int, value: int) -> bytes:
    """Return a file with statistics, and with another number in its schema."""

    def change(footer: Struct) -> None:
        footer[2][1][1][element][field] = (t.I32, value)

    return _with_footer(bad.parquet({"image": [bad.jpeg()], "camera": ["a"]}), change)


def _deep_footer() -> bytes:
    footer = b"\x19" * 100_000
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _shared_schema(fields: int, name_bytes: int = 1) -> bytes:
    good = one_image()
    metadata = {b"ARROW:schema": shared_arrow_schema(fields, name_bytes)}
    return file_of(good, [chunk(good, 1)], 1, metadata=metadata)


def _hidden_schema() -> bytes:
    """Return a file with metadata in a field of which readers with 16 bits think that it is field 5."""

    def change(footer: Struct) -> None:
        footer[2**16 + 5] = footer.pop(5)

    return _with_footer(_shared_schema(75_000), change)


def _typeless_metadata() -> bytes:
    def change(footer: Struct) -> None:
        footer[5] = (t.LIST, (0, []))

    return _with_footer(images(one_image(), 1), change)


def _empty_chunks(count: int) -> bytes:
    return file_of(b"", [{2: (t.I64, 4)}] * count, 1)


def _expands(codec: str) -> Callable[[], bytes]:
    """Return what makes a file with a page of 64 MiB that states a kilobyte."""
    return lambda: images(page(levels(1) + plain(bytes(2**26)), 1, codec=codec, says=1024), 1, codec=codec)


def _fails(name: str, make: Callable[[], bytes], error: str) -> BadShard:
    return BadShard(f"Parquet: {name}", ".parquet", make, error=error)


def _done(name: str, make: Callable[[], bytes], frames: int = 1) -> BadShard:
    return BadShard(f"Parquet: {name}", ".parquet", make, (None,) * frames)


LYING_PARQUETS = (
    _fails(
        "page of 8 KiB that states 2 GiB",
        lambda: images(one_image("zstd", says=_GIB_2), 1, codec="zstd"),
        "expands to",
    ),
    _fails(
        "page of version 2 that states 2 GiB",
        lambda: images(page(plain(bad.jpeg()), 1, kind=3, codec="zstd", says=_GIB_2), 1, codec="zstd"),
        "expands to",
    ),
    _fails(
        "page of 256 MiB in a column that states some KiB",
        lambda: images(page(levels(1) + plain(bytes(2**28)), 1, codec="zstd"), 1, codec="zstd"),
        "expands to",
    ),
    *(
        _fails(f"page of 64 MiB in {codec} that states 1 KiB", _expands(codec), "damaged")
        for codec in ("snappy", "gzip", "zstd")
    ),
    _fails("page of a negative size", lambda: images(one_image(says=-1), 1), "sizes that no page has"),
    _fails(
        "page that states 2 GiB of compressed data",
        lambda: images(_endless(), 1, codec="zstd"),
        "more than are left",
    ),
    _fails("page with two sizes", _sizes_twice, "out of order"),
    _fails(
        "page header of 32 MiB", lambda: images(one_image(more={9: (t.BINARY, bytes(2**25))}), 1), "truncated"
    ),
    _fails(
        "page header of 2 MiB without statistics",
        lambda: images(one_image(more={9: (t.BINARY, bytes(2**21))}), 1),
        "more bytes than it may have",
    ),
    _fails(
        "page with more values than rows",
        lambda: images(page(levels(2**28) + lengths(2**28), 2**28, DELTA_LENGTHS), 1),
        "for 1 rows",
    ),
    _fails(
        "100,000 pages without values",
        lambda: images(page(b"", 0) * 100_000 + one_image(), 1),
        "pages without values",
    ),
    _fails(
        "dictionary of 2 billion values",
        lambda: images(page(plain(bad.jpeg()), _GIB_2, kind=2) + one_image(), 1, dictionary_at=4),
        "expands to",
    ),
    _fails("two dictionaries", _two_dictionaries, "not the first page"),
    BadShard(
        "Parquet: dictionary that the footer doesn't mention, of 24 times 32 MiB",
        ".parquet",
        _dictionary_bomb,
        ("too large",) * 24,
    ),
    _fails(
        "2 billion lengths in a page of a value",
        lambda: images(page(levels(1) + lengths(_GIB_2), 1, DELTA_LENGTHS), 1, encoding=DELTA_LENGTHS),
        "lengths for 1 values",
    ),
    _fails(
        "2 billion lengths in a compressed page",
        lambda: _many_lengths("zstd"),
        "lengths for 1 values",
    ),
    _fails(
        "2 billion lengths after those of prefixes",
        lambda: images(
            page(levels(1) + lengths(1) + lengths(_GIB_2), 1, DELTA_PREFIXES), 1, encoding=DELTA_PREFIXES
        ),
        "lengths for 1 values",
    ),
    _fails(
        "2 billion lengths in LZ4 of Hadoop",
        lambda: _many_lengths("lz4 of hadoop"),
        "lengths for 1 values",
    ),
    _fails("16 values that share 30 MiB", _shared_prefixes, "DELTA_BYTE_ARRAY"),
    _fails(
        "2 billion rows of nulls in some bytes",
        lambda: images(page(levels(_GIB_2, 0), _GIB_2), _GIB_2),
        "too many for images",
    ),
    _fails("negative number of rows", lambda: images(one_image(), -1), "negative number of rows"),
    _fails("more rows than its pages have", lambda: images(one_image(), 3, values=3), "damaged"),
    _fails("row group of 300,000 empty columns", lambda: _empty_chunks(300_000), "damaged"),
    _fails("row groups of a million empty columns", lambda: _empty_chunks(1_000_000), "its footer has"),
    _fails(
        "statistics of a million empty structs",
        lambda: images(one_image(), 1, statistics={9: (t.LIST, (t.STRUCT, [{}] * 1_100_000))}),
        "its footer has",
    ),
    _fails(
        "footer with a name of 2 MiB",
        lambda: file_of(one_image(), [chunk(one_image(), 1)], 1, schema_of(column(b"n" * 2**21))),
        "its footer has",
    ),
    _fails(
        "footer with statistics of 130 MiB",
        lambda: images(one_image(), 1, statistics={1: (t.BINARY, bytes(130 * 2**20))}),
        "its footer has",
    ),
    _done(
        "footer with statistics of 20 MiB",
        lambda: images(one_image(), 1, statistics={1: (t.BINARY, bytes(20 * 2**20))}),
    ),
    _fails(
        "a thousand row groups of the same 1 MiB",
        lambda: images(page(levels(1) + plain(bytes(2**20)), 1, codec="zstd"), 1, groups=1000, codec="zstd"),
        "expands to",
    ),
    _done(
        "columns that overlap",
        lambda: file_of(
            one_image(),
            [chunk(one_image(), 1), chunk(one_image(), 1, name=b"label")],
            1,
            schema_of(column(b"image"), column(b"label")),
        ),
    ),
    _fails("column behind the end", lambda: images(one_image(), 1, at=2**40), "is said to be at bytes"),
    _fails("column of an exabyte", lambda: images(one_image(), 1, size=2**60), "is said to be at bytes"),
    _done(
        "statistics that lie",
        lambda: images(
            one_image(),
            1,
            statistics={1: (t.BINARY, b"z"), 2: (t.BINARY, b"a"), 3: (t.I64, 2**60), 4: (t.I64, -1)},
        ),
    ),
    _fails("camera of another type than its statistics", lambda: _changedschema_of(2, 1, 1), "damaged"),
    _fails("image that is never null, with counts of nulls", lambda: _changedschema_of(1, 3, 0), "damaged"),
    _fails(
        "schema of 10,000 levels",
        lambda: file_of(
            one_image(),
            [chunk(one_image(), 1)],
            1,
            [group_of(b"schema", 1, 0), *[group_of(b"a", 1)] * 10_000, column(b"image")],
        ),
        "too deeply nested",
    ),
    _fails(
        "schema with a negative number of children",
        lambda: file_of(
            one_image(), [chunk(one_image(), 1)], 1, [group_of(b"schema", -5, 0), column(b"image")]
        ),
        "negative number of children",
    ),
    _fails("footer of 100,000 lists in lists", _deep_footer, "nested too deep"),
    _done("75,000 references to one struct of Arrow", lambda: _shared_schema(75_000)),
    _done(
        "36,000 references to one struct of Arrow, whose name has 100 kB",
        lambda: _shared_schema(36_000, 100_000),
    ),
    _done("850 references to one struct of Arrow, whose name has 2 kB", lambda: _shared_schema(850, 2000)),
    _fails("metadata in a field of 17 bits", _hidden_schema, "it has a field 65541"),
    _done("no metadata, of no type", _typeless_metadata),
    _fails("20,000 columns with paths of 400 KB", _long_paths, "names of its columns"),
    _done(
        "column with a name of a megabyte",
        lambda: _beside(page(levels(1) + plain(b"x"), 1), column(b"n" * 10**6), name=b"n" * 10**4),
    ),
    _fails(
        "only a column with a name of a megabyte",
        lambda: file_of(one_image(), [chunk(one_image(), 1)], 1, schema_of(column(b"n" * 10**6))),
        "has no column 'image'",
    ),
    _done(
        "camera of a megabyte",
        lambda: _beside(
            page(levels(2) + plain(*[b"x" * 10**6] * 2), 2), {**column(b"camera"), 6: (t.I32, 0)}, 2
        ),
        2,
    ),
    _done(
        "camera of 2 GiB in each row",
        lambda: _beside(page(levels(1, 0), 1), column(b"camera", FIXED_BINARY, _GIB_2), kind=FIXED_BINARY),
    ),
    _done("camera that is a list of 2 billion nulls", _list_of_nulls),
    _fails(
        "struct in a struct as the image",
        lambda: bad.parquet({"image": [{"bytes": {"bytes": bad.jpeg()}}]}),
        "holds struct",
    ),
)
