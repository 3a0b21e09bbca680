"""Shard to frames: tar, zip, Parquet and loose images, streamed from wherever they lie.

A shard is never held whole, neither in memory nor on disk. Trouble with one image becomes a frame with
an error; trouble with the shard as such is a ShardError, after the frames before it were given.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO, Any, cast

from actors.errors import ShardError
from actors.read.file_names import (
    MAX_SIDECAR_BYTES,
    NO_FACTS,
    FrameFacts,
    SeenKeys,
    clean_text,
    extension,
    file_key,
    is_image,
    is_sidecar,
    no_images_error,
    parse_sidecar,
    sidecar_too_large,
    size_error,
)
from actors.read.parquet_frames import read_parquet
from actors.read.settings import InputSettings
from actors.read.tar_members import TarMember, iter_members
from actors.read.zip_frames import read_zip
from actors.records import Frame, Shard
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import (
    STORAGE_ERRORS,
    ObjectStore,
    StorageSettings,
    storage_error_text,
)

__all__ = ["InputSettings", "list_members", "pack_members", "read_frames"]

_SEQUENTIAL: dict[str, Any] = {"cache_type": "readahead", "block_size": 8 * 2**20}
_RANDOM_ACCESS: dict[str, Any] = {
    "cache_type": "blockcache",
    "block_size": 4 * 2**20,
    "cache_options": {"maxblocks": 8},
}
"""A zip's sidecars and Parquet's columns lie apart: the last eight blocks of 4 MiB are kept."""


def read_frames(shard: Shard, settings: InputSettings, storage: StorageSettings) -> Iterator[Frame]:
    """Frames of a shard in its own order, one for every image that it names.

    Sidecars (`<key>.json` with `camera` and `captured_at`) lie beside their image in a tar, and
    anywhere in a zip. Memory holds one sample and what is read ahead, about 16 to 40 MB.

    Args:
        shard: What to read.
        settings: How, and what is too large.
        storage: How to reach the store, which is retried as `storage.retries` says.

    Raises:
        ShardError: The shard is missing, unreachable, truncated, damaged, not what its name says, or
            holds no images. Names the shard and, where there is one, the remedy.
    """
    name = shard.uri if not shard.members else f"{shard.uri} ({shard.shard_id})"
    readers: dict[str, Callable[[Shard, InputSettings, ObjectStore], Iterator[Frame]]] = {
        "webdataset": _read_tar,
        "zip": _read_zip,
        "parquet": _read_parquet,
        "images": _read_images,
    }
    store = ObjectStore(shard.uri, storage)
    try:
        yield from readers[shard.format](shard, settings, store)
    except ShardError as error:
        raise ShardError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise ShardError(f"{name}: no longer there; it was when the run was planned") from error
    except STORAGE_ERRORS as error:
        raise ShardError(f"{name}: {storage_error_text(error)}") from error


def _open(shard: Shard, store: ObjectStore, stack: ExitStack, options: dict[str, Any]) -> IO[bytes]:
    if shard.size_bytes == 0:
        raise ShardError("empty (0 bytes)")
    return stack.enter_context(store.open("", **options))


# --- tar ---


class _TarSample:
    """Adjacent members of one key: images and perhaps the sidecar, in either order."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.frames: list[Frame] = []
        self.facts = NO_FACTS

    def finished(self) -> Iterator[Frame]:
        for frame in self.frames:
            yield self.facts.apply(frame)


def _read_tar(shard: Shard, settings: InputSettings, store: ObjectStore) -> Iterator[Frame]:
    with ExitStack() as stack:
        file = _open(shard, store, stack, _SEQUENTIAL)
        if shard.uri.lower().endswith((".gz", ".tgz")):
            file = cast("IO[bytes]", stack.enter_context(gzip.open(file)))
        members = iter_members(file, shard.start, shard.stop)
        whole = shard.start == 0 and shard.stop is None
        yield from _tar_frames(members, settings, whole)


def _tar_frames(members: Iterator[TarMember], settings: InputSettings, whole: bool) -> Iterator[Frame]:
    seen = SeenKeys()
    found: Counter[str] = Counter()
    images = 0
    sample = _TarSample("")
    try:
        for member in members:
            if member.key != sample.key:
                yield from sample.finished()
                sample = _TarSample(member.key)
            if is_image(member.name):
                images += 1
                error = seen.duplicate_error(member.key, member.name) or size_error(
                    member.size_bytes, settings
                )
                data = member.read() if error is None else None
                sample.frames.append(Frame(member.key, data, error=error))
            elif settings.sidecars and is_sidecar(member.name):
                sample.facts = _sidecar_of(member, settings)
            else:
                found[extension(member.name)] += 1
    except ShardError:
        # What was read before the damage is sound, and is worth a row in the table of frames.
        yield from sample.finished()
        raise
    yield from sample.finished()
    # A part may lie wholly within a large file that is no image.
    if not images and (whole or found):
        raise no_images_error(found)


def _sidecar_of(member: TarMember, settings: InputSettings) -> FrameFacts:
    if member.size_bytes > MAX_SIDECAR_BYTES:
        return sidecar_too_large(member.name, member.size_bytes)
    return parse_sidecar(member.name, member.read(), settings)


# --- zip and Parquet ---


def _read_zip(shard: Shard, settings: InputSettings, store: ObjectStore) -> Iterator[Frame]:
    with ExitStack() as stack:
        yield from read_zip(_open(shard, store, stack, _RANDOM_ACCESS), shard, settings)


def _read_parquet(shard: Shard, settings: InputSettings, store: ObjectStore) -> Iterator[Frame]:
    with ExitStack() as stack:
        yield from read_parquet(_open(shard, store, stack, _RANDOM_ACCESS), shard, settings)


# --- loose images ---


def pack_members(names: list[str]) -> bytes:
    """File names as `Shard.members` holds them: sorted, separated by NUL, zlib-compressed."""
    joined = "\0".join(sorted(names))
    return zlib.compress(joined.encode("utf-8", "surrogateescape"))


def list_members(members: bytes) -> list[str]:
    """The file names that `pack_members` packed."""
    return zlib.decompress(members).decode("utf-8", "surrogateescape").split("\0")


def _read_images(shard: Shard, settings: InputSettings, store: ObjectStore) -> Iterator[Frame]:
    names = list_members(shard.members)
    sidecars = {file_key(name): name for name in names if is_sidecar(name)} if settings.sidecars else {}
    seen = SeenKeys()

    def read(name: str) -> Frame:
        return _read_image(store, name, sidecars.get(file_key(name)), errors.pop(name), settings)

    errors: dict[str, str | None] = {}
    for name in filter(is_image, names):
        errors[name] = seen.duplicate_error(file_key(name), name)
    yield from map_ahead(read, list(errors))


def _read_image(
    store: ObjectStore, name: str, sidecar: str | None, error: str | None, settings: InputSettings
) -> Frame:
    data: bytes | None = None
    facts = NO_FACTS
    if error is None:
        data, error = _read_file(store, name, settings.max_image_bytes)
        if data is not None and (error := size_error(len(data), settings)) is not None:
            data = None
    if sidecar is not None:
        content, sidecar_error = _read_file(store, sidecar, MAX_SIDECAR_BYTES)
        if content is None:
            facts = FrameFacts(note=f"sidecar {clean_text(sidecar)} ignored: {sidecar_error}")
        elif len(content) > MAX_SIDECAR_BYTES:
            facts = sidecar_too_large(sidecar, len(content))
        else:
            facts = parse_sidecar(sidecar, content, settings)
    return facts.apply(Frame(file_key(name), data, error=error))


def _read_file(store: ObjectStore, name: str, max_bytes: int) -> tuple[bytes | None, str | None]:
    """Content up to one byte more than allowed, or why there is none."""
    try:
        return store.read_start(name, max_bytes + 1), None
    except (FileNotFoundError, IsADirectoryError):
        return None, "no longer there; it was when the run was planned"
    except PermissionError as error:
        return None, f"not readable: {storage_error_text(error)}"
