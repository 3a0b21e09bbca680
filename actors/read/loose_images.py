"""Read the image files of one folder as frames."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from actors.errors import ShardUnavailableError
from actors.read.file_names import SeenKeys, clean_text, file_key, is_image, is_sidecar, size_error
from actors.read.settings import InputSettings
from actors.read.sidecars import MAX_SIDECAR_BYTES, NO_FACTS, FrameFacts, parse_sidecar, sidecar_too_large
from actors.records import Frame, Shard
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import storage_error_text

_GONE = "no longer there, although it existed when the run was planned"
_REFUSED = "not readable: "


def pack_members(names: list[str]) -> bytes:
    """Pack file names for `Shard.members`: sorted, separated by NUL, zlib-compressed."""
    joined = "\0".join(sorted(names))
    return zlib.compress(joined.encode("utf-8", "surrogateescape"))


def list_members(members: bytes) -> list[str]:
    """Return the file names that `pack_members` packed."""
    return zlib.decompress(members).decode("utf-8", "surrogateescape").split("\0")


def input_of_frame(shard: Shard, frame_key: str) -> str:
    """Return where a frame was read: the image file, or the object and the key in it."""
    if shard.format == "images":
        for name in list_members(shard.members):
            if is_image(name) and file_key(name) == frame_key:
                return f"{shard.uri.rstrip('/')}/{name}"
    return f"{shard.uri}: {frame_key}"


def read_images(store: ObjectStore, shard: Shard, settings: InputSettings) -> Iterator[Frame]:
    """Yield one frame per image file, in the order of names. A sidecar is in the same folder as its image.

    Args:
        store: The folder that contains the files.
        shard: The shard, whose `members` are the names of the files. Only images in its range of frames are
            read.
        settings: The limits on images, and whether sidecars are read.

    Raises:
        ShardUnavailableError: All images are gone or unreadable, so the folder was moved or closed. A single
            image that is gone or unreadable gives a frame with an error.
        OSError: The store failed.
    """
    names = list_members(shard.members)
    sidecars = {file_key(name): name for name in names if is_sidecar(name)} if settings.sidecars else {}
    seen = SeenKeys()

    def read(name: str) -> Frame:
        return _read_image(store, name, sidecars.get(file_key(name)), errors.pop(name), settings)

    errors: dict[str, str | None] = {}
    images = list(filter(is_image, names))
    for name in images:
        errors[name] = seen.duplicate_error(file_key(name), name)
    images = images[shard.first_frame : shard.stop_frame]
    reasons = []
    for frame in map_ahead(read, images):
        if frame.error is not None and frame.error.startswith((_GONE, _REFUSED)):
            reasons.append(frame.error)
        yield frame
    if reasons and len(reasons) == len(images):
        raise ShardUnavailableError(
            f"none of its {len(reasons)} images can be read; the first is {reasons[0]}"
        )


def _read_image(
    store: ObjectStore, name: str, sidecar: str | None, error: str | None, settings: InputSettings
) -> Frame:
    data: bytes | None = None
    facts = NO_FACTS
    if error is None:
        data, error = _read_file(store, name, settings.max_image_bytes)
        if data is not None and (error := size_error(len(data), settings.max_image_bytes)) is not None:
            data = None
    if sidecar is not None:
        content, sidecar_error = _read_file(store, sidecar, MAX_SIDECAR_BYTES)
        if content is None:
            facts = FrameFacts(note=f"sidecar {clean_text(sidecar)} ignored: {sidecar_error}")
        elif len(content) > MAX_SIDECAR_BYTES:
            facts = sidecar_too_large(sidecar, len(content))
        else:
            facts = parse_sidecar(sidecar, content, settings)
    return facts.apply(Frame(file_key(name), data, error=error, name=name))


def _read_file(store: ObjectStore, name: str, max_bytes: int) -> tuple[bytes | None, str | None]:
    """Return the content, at most one byte more than `max_bytes`, or the reason why there is none."""
    try:
        return store.read_start(name, max_bytes + 1), None
    except (FileNotFoundError, IsADirectoryError):
        return None, _GONE
    except PermissionError as error:
        return None, f"{_REFUSED}{storage_error_text(error)}"
