"""Parquet files made byte by byte, so that they can lie."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tests.support import thrift_compact as t
from tests.support.thrift_compact import Struct

PLAIN, RLE, DELTA_LENGTHS, DELTA_PREFIXES, DICTIONARY = 0, 3, 6, 7, 8
BINARY, FIXED_BINARY = 6, 7
_CODECS = {"": 0, "snappy": 1, "gzip": 2, "lz4 of hadoop": 5, "zstd": 6, "lz4_raw": 7}


def column(name: bytes, kind: int = BINARY, length: int | None = None, repetition: int = 1) -> Struct:
    """Return a column of the schema; it is optional."""
    found: Struct = {1: (t.I32, kind), 3: (t.I32, repetition), 4: (t.BINARY, name)}
    return found if length is None else found | {2: (t.I32, length)}


def group_of(name: bytes, children: int, repetition: int = 1) -> Struct:
    """Return a struct of the schema."""
    return {3: (t.I32, repetition), 4: (t.BINARY, name), 5: (t.I32, children)}


def schema_of(*elements: Struct) -> list[Struct]:
    """Return a schema with these columns and structs at its top."""
    return [group_of(b"schema", len(elements), 0), *elements]


def plain(*values: bytes) -> bytes:
    """Return values in the encoding PLAIN."""
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def levels(count: int, level: int = 1) -> bytes:
    """Return a definition level that is repeated."""
    run = t.varint(count << 1) + bytes([level])
    return len(run).to_bytes(4, "little") + run


def lengths(total: int, first: int = 0) -> bytes:
    """Return one number that is repeated, delta-encoded in one block."""
    block = max(128, -(-total // 128) * 128)
    head = t.varint(block) + t.varint(4) + t.varint(total) + t.varint(first << 1)
    return head + bytes(5) if total > 1 else head


def page(
    data: bytes,
    values: int,
    encoding: int = PLAIN,
    kind: int = 0,
    codec: str = "",
    says: int | None = None,
    more: Struct | None = None,
) -> bytes:
    """Return a page with its header.

    Args:
        data: Levels and values.
        values: The number of values that it states.
        encoding: Of the values.
        kind: 0 for data, 2 for a dictionary, 3 for data in version 2 (without levels).
        codec: How it is compressed; empty for none.
        says: The size that it states, if that is a lie.
        more: Further fields of the header.
    """
    content = _compressed(data, codec)
    size = len(data) if says is None else says
    header: Struct = {1: (t.I32, kind), 2: (t.I32, size), 3: (t.I32, len(content))}
    head: Struct = {1: (t.I32, values), 2: (t.I32, encoding)}
    if kind == 0:
        header[5] = (t.STRUCT, head | {3: (t.I32, RLE), 4: (t.I32, RLE)})
    elif kind == 2:
        header[7] = (t.STRUCT, head)
    else:
        version_2 = {2: 0, 3: values, 4: encoding, 5: 0, 6: 0}
        header[8] = (t.STRUCT, {1: (t.I32, values)} | {n: (t.I32, v) for n, v in version_2.items()})
    return t.encode(header | (more or {})) + content


def _compressed(data: bytes, codec: str) -> bytes:
    if codec != "lz4 of hadoop":
        return pa.Codec(codec).compress(data, asbytes=True) if codec else data
    # Blocks of any size, each after its sizes.
    blocks = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    packed = [(block, _compressed(block, "lz4_raw")) for block in blocks]
    sizes = [len(block).to_bytes(4, "big") + len(short).to_bytes(4, "big") for block, short in packed]
    return b"".join(size + short for size, (_, short) in zip(sizes, packed, strict=True))


def chunk(pages: bytes, rows: int, at: int = 4, name: bytes = b"image", **says: Any) -> Struct:
    """Return what a footer says of a column: the truth, in PLAIN, unless `says` has something else."""
    size = says.get("size", len(pages))
    found: Struct = {
        1: (t.I32, says.get("kind", BINARY)),
        2: (t.LIST, (t.I32, [says.get("encoding", PLAIN), RLE])),
        3: (t.LIST, (t.BINARY, name.split(b"."))),
        4: (t.I32, _CODECS[says.get("codec", "")]),
        5: (t.I64, says.get("values", rows)),
        6: (t.I64, size),
        7: (t.I64, size),
        9: (t.I64, at),
    }
    if "dictionary_at" in says:
        found[11] = (t.I64, says["dictionary_at"])
    if "statistics" in says:
        found[12] = (t.STRUCT, says["statistics"])
    return {2: (t.I64, at), 3: (t.STRUCT, found)}


def file_of(
    pages: bytes,
    chunks: list[Struct],
    rows: int,
    schema: list[Struct] | None = None,
    groups: int = 1,
    metadata: dict[bytes, bytes] | None = None,
) -> bytes:
    """Return a file of these pages, and of row groups that all refer to them."""
    pairs = [{1: (t.BINARY, key), 2: (t.BINARY, value)} for key, value in (metadata or {}).items()]
    group: Struct = {1: (t.LIST, (t.STRUCT, chunks)), 2: (t.I64, len(pages)), 3: (t.I64, rows)}
    footer = t.encode(
        {
            1: (t.I32, 2),
            2: (t.LIST, (t.STRUCT, schema or schema_of(column(b"image")))),
            3: (t.I64, rows * groups),
            4: (t.LIST, (t.STRUCT, [group] * groups)),
            5: (t.LIST, (t.STRUCT, pairs)),
        }
    )
    return b"PAR1" + pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def lengths_of(first: int, *others: int) -> bytes:
    """Return delta-encoded lengths: any first one, and others that are equal."""
    (other,) = set(others)
    delta = other - first
    least = min(delta, 0)
    widths, bits = bytes(4), b""
    if delta > 0 or len(others) > 1:
        # The first group of 32 deltas has 32 bits for each.
        widths = bytes([32, 0, 0, 0])
        deltas = [delta, *[0] * (len(others) - 1)]
        bits = b"".join((d - least).to_bytes(4, "little") for d in deltas).ljust(128, b"\0")
    head = t.varint(128) + t.varint(4) + t.varint(len(others) + 1) + t.varint(t.zigzag(first))
    return head + t.varint(t.zigzag(least)) + widths + bits
