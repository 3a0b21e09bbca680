"""Divide a large shard into parts, each small enough to be one block."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, Any, cast

import pyarrow as pa

from actors.errors import ShardError
from actors.read.parquet_file import open_parquet
from actors.read.zip_frames import DAMAGE
from actors.records import Shard
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.store_file import StoreFile

_TAR_BLOCK = 512


def split_shard(shard: Shard, max_bytes: int, storage: StorageSettings) -> Iterator[Shard]:
    """Yield the shard, or its parts `<shard_id>.part-00000` and so on if it is larger than `max_bytes`.

    A tar is divided by bytes without being read: its parts begin and end at the samples next to their
    boundaries (see `actors.read.tar_members`). Parquet is divided by row groups and a zip by entries; only
    the index at the end of the file is read for this. A shard that can't be divided (a compressed tar, one
    huge row group, a file without a valid index) stays whole. If it is damaged, reading it reports why.

    Raises:
        OSError, StoreError: The store failed.
    """
    if shard.size_bytes <= max_bytes:
        yield shard
        return
    if shard.format == "webdataset":
        bounds = _tar_bounds(shard, max_bytes)
    else:
        options: dict[str, Any] = {
            "cache_type": "blockcache",
            "block_size": 2**20,
            "cache_options": {"maxblocks": 8},
        }
        with ObjectStore(shard.uri, storage).open("", **options) as file:
            sizes = _row_group_sizes(file) if shard.format == "parquet" else _entry_sizes(file)
        bounds = _greedy_bounds(sizes, max_bytes)
    if len(bounds) < 2:
        yield shard
        return
    for number, (start, stop, size_bytes) in enumerate(bounds):
        yield replace(
            shard,
            shard_id=f"{shard.shard_id}.part-{number:05d}",
            etag=part_etag(shard.etag, start, stop),
            size_bytes=size_bytes,
            start=start,
            stop=stop,
        )


def part_etag(etag: str, start: int, stop: int | None) -> str:
    """Return the identity of a part of a file with this etag.

    It contains the bounds, because another division of the same file is another input.
    """
    return f"{etag}:{start}-{'' if stop is None else stop}"


def _tar_bounds(shard: Shard, max_bytes: int) -> list[tuple[int, int | None, int]]:
    if not shard.uri.lower().endswith(".tar"):
        return []
    count = -(-shard.size_bytes // max_bytes)
    step = -(-shard.size_bytes // count // _TAR_BLOCK) * _TAR_BLOCK
    starts = list(range(0, shard.size_bytes, step))
    return [
        (start, stop, (stop or shard.size_bytes) - start)
        for start, stop in zip(starts, [*starts[1:], None], strict=True)
    ]


def _row_group_sizes(file: IO[bytes]) -> Sequence[int]:
    try:
        groups = open_parquet(StoreFile(file)).groups
    except (ShardError, pa.ArrowException, OSError):
        return []
    return [sum(max(0, column.size_bytes) for column in group.columns) for group in groups]


def _entry_sizes(file: IO[bytes]) -> Sequence[int]:
    try:
        with zipfile.ZipFile(cast("IO[bytes]", StoreFile(file))) as archive:
            return [entry.compress_size for entry in archive.infolist()]
    except DAMAGE:
        return []


def _greedy_bounds(sizes: Sequence[int], max_bytes: int) -> list[tuple[int, int | None, int]]:
    """Group consecutive items up to `max_bytes`. The last group has no end.

    An item that is larger than `max_bytes` forms a group of its own.
    """
    bounds: list[tuple[int, int | None, int]] = []
    start = taken = 0
    for position, size in enumerate(sizes):
        if position > start and taken + size > max_bytes:
            bounds.append((start, position, taken))
            start, taken = position, 0
        taken += size
    return [*bounds, (start, None, taken)]
