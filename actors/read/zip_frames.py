"""Read the entries of a zip as frames."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import IO, cast

from actors.errors import ShardError
from actors.read.file_names import (
    SeenKeys,
    clean_text,
    extension,
    file_key,
    is_image,
    is_sidecar,
    no_images_error,
    size_error,
)
from actors.read.frame_range import in_range
from actors.read.settings import InputSettings
from actors.read.sidecars import MAX_SIDECAR_BYTES, NO_FACTS, FrameFacts, parse_sidecar, sidecar_too_large
from actors.records import Frame, Shard
from actors.storage.store_file import StoreFile

DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError),
    *(OverflowError, struct.error, OSError),
)
"""Exceptions of zipfile on damaged bytes and unknown compressions. Those of the store are StoreErrors."""

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Of these, zipfile decompresses no more than it is asked for. Images get no smaller by others."""


def read_zip(file: IO[bytes], shard: Shard, settings: InputSettings) -> Iterator[Frame]:
    """Yield one frame per image, in the order of the zip's directory. Sidecars may be anywhere in it.

    Args:
        file: Seekable file.
        shard: The shard, whose `start` and `stop` are positions in the directory. Only entries in its range
            of frames are read.
        settings: The limits on images, and whether sidecars are read.

    Raises:
        ShardError: The file is not a zip, is truncated, or contains no images.
        StoreError: The store failed.
    """
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(cast("IO[bytes]", StoreFile(file))))
        except DAMAGE as error:
            raise ShardError(f"not a zip, or truncated: {error}") from error
        entries = archive.infolist()
        sidecars = {file_key(e.filename): e for e in entries if settings.sidecars and is_sidecar(e.filename)}
        images = [(i, e) for i, e in enumerate(entries) if is_image(e.filename)]
        if not images:
            raise no_images_error(
                Counter(extension(e.filename) for e in entries if not e.filename.endswith("/"))
            )
        overlapping = _overlapping(entries)
        seen = SeenKeys()
        number = -1
        for index, entry in images:
            key = file_key(entry.filename)
            # Keys are registered from the first entry on, so that all parts agree on which entry was first.
            problem = seen.duplicate_error(key, entry.filename)
            if index < shard.start or (shard.stop is not None and index >= shard.stop):
                continue
            number += 1
            if not in_range(shard, number):
                continue
            data: bytes | None = None
            if entry.header_offset in overlapping:
                problem = problem or "overlaps with another entry of the zip; pack it again"
            problem = problem or _refusal(entry) or size_error(entry.file_size, settings.max_image_bytes)
            if problem is None:
                data, problem = _read_entry(archive, entry)
            facts = _facts(archive, sidecars.get(key), settings)
            yield facts.apply(Frame(key, data, error=problem, name=entry.filename))


def _overlapping(entries: Sequence[zipfile.ZipInfo]) -> set[int]:
    """Return the offsets of entries that reach into the next one, which lets a small zip expand to any size.

    An entry that is listed twice doesn't overlap with itself: its key is found to be a duplicate.
    """
    ends: dict[int, int] = {}
    for entry in entries:
        end = entry.header_offset + entry.compress_size
        ends[entry.header_offset] = max(end, ends.get(entry.header_offset, end))
    offsets = sorted(ends)
    return {offset for offset, following in pairwise(offsets) if ends[offset] > following}


def _refusal(entry: zipfile.ZipInfo) -> str | None:
    if entry.flag_bits & 0x1:
        return "encrypted in the zip; pack it without a password"
    if entry.compress_type not in _COMPRESSIONS:
        name = zipfile.compressor_names.get(entry.compress_type, entry.compress_type)  # type: ignore[attr-defined]
        return f"compressed by the method {name}; pack it with deflate, or without compression"
    return None


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[bytes | None, str | None]:
    try:
        # Without a size, all of the entry would be decompressed at once, however much that is.
        with archive.open(entry) as file:
            return file.read(entry.file_size), None
    except DAMAGE as error:
        return None, f"damaged in the zip: {clean_text(str(error))}"


def _facts(archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None, settings: InputSettings) -> FrameFacts:
    if entry is None:
        return NO_FACTS
    if entry.file_size > MAX_SIDECAR_BYTES:
        return sidecar_too_large(entry.filename, entry.file_size)
    problem, content = _refusal(entry), None
    if problem is None:
        content, problem = _read_entry(archive, entry)
    if content is None:
        return FrameFacts(note=f"sidecar {clean_text(entry.filename)} ignored: {problem}")
    return parse_sidecar(entry.filename, content, settings)
