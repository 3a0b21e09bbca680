"""Read the frames of a shard: tar, zip, Parquet or loose images, streamed from any store.

A shard is never held whole, in memory or on disk. A problem with one image gives a frame with an error.
A problem with the shard itself raises a ShardError after the frames before it were yielded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import IO, Any

from actors.errors import ShardError, ShardUnavailableError, StoreError
from actors.read.key_facts import with_key_facts
from actors.read.loose_images import read_images
from actors.read.parquet_frames import read_parquet
from actors.read.settings import InputSettings
from actors.read.tar_frames import read_tar
from actors.read.zip_frames import read_zip
from actors.records import Frame, Shard, ShardFormat
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

_SEQUENTIAL: dict[str, Any] = {"cache_type": "readahead", "block_size": 8 * 2**20}
_RANDOM_ACCESS: dict[str, Any] = {
    "cache_type": "blockcache",
    "block_size": 4 * 2**20,
    "cache_options": {"maxblocks": 8},
}
"""The reads of a zip's sidecars and of Parquet columns are scattered, so the last eight blocks of 4 MiB are
kept."""


_FileReader = Callable[[IO[bytes], Shard, InputSettings], Iterator[Frame]]

_FILE_READERS: dict[ShardFormat, tuple[_FileReader, dict[str, Any]]] = {
    "webdataset": (read_tar, _SEQUENTIAL),
    "zip": (read_zip, _RANDOM_ACCESS),
    "parquet": (read_parquet, _RANDOM_ACCESS),
}
"""The reader of each format with single-file shards, and the options to open the file with."""


def read_frames(shard: Shard, settings: InputSettings, storage: StorageSettings) -> Generator[Frame]:
    """Yield the frames of a shard in its own order, one for every image that it lists.

    A sidecar (`<key>.json` with `camera` and `captured_at`) must be next to its image in a tar, and may be
    anywhere in a zip. Camera and time that neither it nor a column gives are read from the path, by
    `input.key_pattern`. Memory holds one sample and the data that is read ahead, about 16 to 40 MB.

    Args:
        shard: The shard to read.
        settings: How to read it, and the limits on images.
        storage: How to reach the store. Failed requests are retried `storage.retries` times.

    Raises:
        ShardError: The shard is truncated or damaged, is not of the format that its name implies, or contains
            no images. The message names the shard and, if there is one, the remedy.
        ShardUnavailableError: The shard is no longer there.
        StoreError: The shard can't be read now.
    """
    name = shard.uri if not shard.members else f"{shard.uri} ({shard.shard_id})"
    frames = _read(shard, settings, ObjectStore(shard.uri, storage))
    try:
        yield from frames if settings.key_pattern is None else with_key_facts(frames, shard, settings)
    except (ShardError, ShardUnavailableError, StoreError) as error:
        raise type(error)(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise ShardUnavailableError(
            f"{name}: no longer there, although it existed when the run was planned"
        ) from error
    except STORAGE_ERRORS as error:
        raise StoreError(f"{name}: {storage_error_text(error)}") from error


def _read(shard: Shard, settings: InputSettings, store: ObjectStore) -> Iterator[Frame]:
    if shard.format == "images":
        yield from read_images(store, shard, settings)
        return
    if shard.size_bytes == 0:
        raise ShardError("empty (0 bytes)")
    read_file, options = _FILE_READERS[shard.format]
    with store.open("", **options) as file:
        yield from read_file(file, shard, settings)
