"""Write chosen frames of the input as files that every browser shows."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from PIL import Image

from actors.commit.committed_shard import shard_from_record
from actors.errors import ShardError, ShardUnavailableError, StoreError
from actors.read.frames import read_frames
from actors.read.listing import current_etag
from actors.read.settings import InputSettings
from actors.storage import layout
from actors.storage.commit_record import CommitRecord
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings

_SHOWN = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}
"""Formats that browsers show, with the endings of their files."""
_JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class FrameFile:
    """A frame that was written. Names have no folders, because tools show and keep only the last part."""

    file_name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The frames that were written, by shard and frame key, and why others could not be, by shard."""

    written: dict[tuple[str, str], FrameFile]
    missing: dict[str, str]


def write_frames(
    wanted: Mapping[str, Collection[str]],
    records: Mapping[str, CommitRecord],
    settings: InputSettings,
    storage: StorageSettings,
    folder: ObjectStore,
    prefix: str,
) -> FrameFiles:
    """Read frames from the input and write them into a folder. Some shards are read at once.

    Args:
        wanted: Frame keys by shard.
        records: The commit record of each shard.
        settings: How to read frames.
        storage: How to reach the input.
        folder: Where to write.
        prefix: Folder in it for the frames.
    """

    def write(shard_id: str) -> tuple[dict[tuple[str, str], FrameFile], str | None]:
        written: dict[tuple[str, str], FrameFile] = {}
        left = set(wanted[shard_id])
        try:
            for key, data in frames_of(records[shard_id], left, settings, storage):
                content, ending = shown(data)
                name = f"{shard_id}.{layout.object_name(key)}.{ending}"
                folder.write(f"{prefix}/{name}", content)
                written[shard_id, key] = FrameFile(name, len(content))
        except (ShardError, ShardUnavailableError, StoreError) as error:
            return written, str(error)
        return written, f"{records[shard_id].input.uri} no longer contains {min(left)}" if left else None

    found = FrameFiles({}, {})
    for shard_id, (written, trouble) in zip(wanted, map_ahead(write, wanted), strict=True):
        found.written.update(written)
        if trouble is not None:
            found.missing[shard_id] = trouble
    return found


def frames_of(
    record: CommitRecord, left: set[str], settings: InputSettings, storage: StorageSettings
) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and contents of a committed shard's frames in `left`, and take them out of it.

    Raises:
        ShardError, ShardUnavailableError: The shard is damaged, gone, or not the one that was committed.
        StoreError: It can't be read now.
    """
    shard = shard_from_record(record)
    try:
        etag = current_etag(shard, storage)
    except FileNotFoundError:
        raise ShardUnavailableError(f"{shard.uri} is no longer there") from None
    if etag != record.input.etag:
        raise ShardUnavailableError(f"{shard.uri} has changed since its persons were detected")
    for frame in read_frames(shard, settings, storage):
        if frame.data is not None and frame.key in left:
            yield frame.key, frame.data
            left.remove(frame.key)
            if not left:
                return


def shown(data: bytes) -> tuple[bytes, str]:
    """Return an image that browsers show, and the ending of its file."""
    with Image.open(io.BytesIO(data)) as image:
        ending = _SHOWN.get(str(image.format))
        if ending is not None:
            return data, ending
        sink = io.BytesIO()
        image.convert("RGB").save(sink, "JPEG", quality=_JPEG_QUALITY)
    return sink.getvalue(), "jpg"
