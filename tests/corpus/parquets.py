"""Parquet files that are broken, of other shapes, or expand."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.kinds import BadShard
from tests.support import bad_inputs as bad

_BOMB_BYTES = 2**28
_LARGE_BYTES = 2**25
_REPEATS = 24


def _parquet(columns: dict[str, Any], **options: Any) -> bytes:
    return written(pa.table(columns), **options)


def written(table: pa.Table, **options: Any) -> bytes:
    """Return a table as a file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _images(count: int = 2) -> list[bytes]:
    return [bad.jpeg(seed=seed) for seed in range(count)]


def _two_columns_of_one_name() -> bytes:
    images = pa.array(_images())
    return written(pa.table([images, images], names=["image", "image"]))


def _not_utf8() -> pa.Array:
    raw = pa.array([b"\xff\xfe", b"fine"])
    return pa.Array.from_buffers(pa.string(), 2, raw.buffers())


def _page_bomb() -> bytes:
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False}
    return _parquet({"image": pa.array([bytes(_BOMB_BYTES)])}, write_statistics=False, **options)


def _dictionary_bomb() -> bytes:
    """Return a file of 24 rows that refer to the same 32 MiB."""
    large = pa.array([bytes(_LARGE_BYTES)], pa.binary())
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * _REPEATS, pa.int32()), large)
    # Without the schema of Arrow, the column is read as plain bytes.
    return written(
        pa.table({"image": rows}),
        compression="zstd",
        store_schema=False,
        dictionary_pagesize_limit=2**30,
    )


def _with_hole() -> bytes:
    whole = _parquet({"image": _images(6)}, row_group_size=2)
    return whole[:100] + bytes(100) + whole[200:]


def _far_time(kind: pa.DataType, value: int) -> bytes:
    return _parquet({"image": _images(1), "captured_at": pa.array([value], kind)})


PARQUETS = (
    *(
        BadShard(f"Parquet: {name}", ".parquet", make, error=error)
        for name, (make, error) in bad.BAD_PARQUETS.items()
    ),
    BadShard("Parquet: hole in a page", ".parquet", _with_hole, error="damaged"),
    BadShard(
        "Parquet: footer longer than the file",
        ".parquet",
        lambda: _parquet({"image": _images()})[:-8] + b"\xff\xff\xff\x7fPAR1",
        error="not Parquet",
    ),
    BadShard(
        "Parquet: nulls and empty images",
        ".parquet",
        lambda: _parquet({"image": [bad.jpeg(), None, b""]}),
        (None, "(null)", "empty"),
    ),
    BadShard(
        "Parquet: only nulls",
        ".parquet",
        lambda: _parquet({"image": pa.nulls(2)}),
        error="holds null",
    ),
    BadShard(
        "Parquet: nested images",
        ".parquet",
        lambda: _parquet({"image": [[image] for image in _images()]}),
        error="holds list",
    ),
    BadShard(
        "Parquet: images as text",
        ".parquet",
        lambda: _parquet({"image": ["a", "b"]}),
        error="holds string",
    ),
    BadShard(
        "Parquet: paths in place of images",
        ".parquet",
        lambda: _parquet(
            {"image": [{"bytes": None, "path": "../../etc/passwd"}, {"bytes": bad.jpeg(), "path": "x"}]}
        ),
        ("only a path", None),
    ),
    BadShard(
        "Parquet: two columns of one name",
        ".parquet",
        _two_columns_of_one_name,
        error="more than one column 'image'",
    ),
    BadShard(
        "Parquet: name of a column that isn't UTF-8",
        ".parquet",
        lambda: _parquet({"image": _images(), "camera": ["a", "b"]}, store_schema=False).replace(
            b"camera", b"\xffamera"
        ),
        error="damaged",
    ),
    BadShard(
        "Parquet: camera and time of wrong types",
        ".parquet",
        lambda: _parquet({"image": _images(1), "camera": [1.5], "captured_at": [[1, 2]]}),
        (None,),
    ),
    BadShard(
        "Parquet: camera that isn't UTF-8",
        ".parquet",
        lambda: _parquet({"image": _images(), "camera": _not_utf8()}),
        (None, None),
    ),
    BadShard(
        "Parquet: time after the year 9999",
        ".parquet",
        lambda: _far_time(pa.timestamp("us"), 2**62),
        (None,),
    ),
    BadShard("Parquet: date after the year 9999", ".parquet", lambda: _far_time(pa.date32(), 2**30), (None,)),
    BadShard(
        "Parquet: duration in place of a time",
        ".parquet",
        lambda: _far_time(pa.duration("s"), 2**62),
        (None,),
    ),
    BadShard(
        "Parquet: unknown time zone",
        ".parquet",
        lambda: _far_time(pa.timestamp("us", "No/Where"), 5),
        (None,),
    ),
    BadShard(
        "Parquet: page of zstd that expands to 256 MiB",
        ".parquet",
        _page_bomb,
        error="expands to",
    ),
    BadShard(
        "Parquet: dictionary that expands to 24 times 32 MiB",
        ".parquet",
        _dictionary_bomb,
        ("too large",) * _REPEATS,
    ),
)
