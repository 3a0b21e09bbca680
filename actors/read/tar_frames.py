"""Read the members of a tar as frames. A sidecar is next to its image."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, cast

from actors.errors import ShardError
from actors.read.expansion import ExpandingFile
from actors.read.file_names import SeenKeys, extension, is_image, is_sidecar, no_images_error, size_error
from actors.read.frame_range import in_range
from actors.read.settings import InputSettings
from actors.read.sidecars import MAX_SIDECAR_BYTES, NO_FACTS, FrameFacts, parse_sidecar, sidecar_too_large
from actors.read.tar_members import TarMember, iter_members
from actors.records import Frame, Shard
from actors.storage.store_file import StoreFile


class _TarSample:
    """Adjacent members with the same key: images and perhaps the sidecar, in any order."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.frames: list[Frame] = []
        self.facts = NO_FACTS

    def finished(self) -> Iterator[Frame]:
        for frame in self.frames:
            yield self.facts.apply(frame)


def read_tar(file: IO[bytes], shard: Shard, settings: InputSettings) -> Iterator[Frame]:
    """Yield one frame per image, in the order of the tar. A sidecar must be next to its image.

    Args:
        file: Seekable file; a whole tar needs only forward seeks. It is compressed with gzip if the shard's
            name ends with .gz or .tgz.
        shard: The shard, whose `start` and `stop` are offsets in bytes. Images before its first frame are
            skipped without being read, which in a compressed tar still decompresses them.
        settings: The limits on images, and whether sidecars are read.

    Raises:
        ShardError: The file is not a tar, is truncated or damaged, or contains no images. The frames before
            the damage were yielded.
        StoreError: The store failed.
    """
    file = cast("IO[bytes]", StoreFile(file))
    with ExitStack() as stack:
        if shard.uri.lower().endswith((".gz", ".tgz")):
            unpacked = cast("IO[bytes]", stack.enter_context(gzip.open(file)))
            file = cast("IO[bytes]", ExpandingFile(unpacked, shard.size_bytes))
        members = iter_members(file, shard.start, shard.stop)
        yield from _tar_frames(members, shard, settings)


def _tar_frames(members: Iterator[TarMember], shard: Shard, settings: InputSettings) -> Iterator[Frame]:
    whole = shard.start == 0 and shard.stop is None
    seen = SeenKeys()
    found: Counter[str] = Counter()
    images = 0
    sample = _TarSample("")
    try:
        for member in members:
            if member.key != sample.key:
                yield from sample.finished()
                if shard.stop_frame is not None and images >= shard.stop_frame:
                    return
                sample = _TarSample(member.key)
            if is_image(member.name):
                images += 1
                # Keys are registered from the first image on, so that a duplicate is found in any part.
                error = seen.duplicate_error(member.key, member.name) or size_error(
                    member.size_bytes, settings.max_image_bytes
                )
                if not in_range(shard, images - 1):
                    continue
                data = member.read() if error is None else None
                sample.frames.append(Frame(member.key, data, error=error, name=member.name))
            elif settings.sidecars and is_sidecar(member.name):
                sample.facts = _sidecar_of(member, settings)
            else:
                found[extension(member.name)] += 1
    except ShardError:
        # The images that were read before the damage are intact, so they are still yielded.
        yield from sample.finished()
        raise
    yield from sample.finished()
    # A part may lie entirely within a large file that is not an image, so an empty part is no error.
    if not images and (whole or found):
        raise no_images_error(found)


def _sidecar_of(member: TarMember, settings: InputSettings) -> FrameFacts:
    if member.size_bytes > MAX_SIDECAR_BYTES:
        return sidecar_too_large(member.name, member.size_bytes)
    return parse_sidecar(member.name, member.read(), settings)
