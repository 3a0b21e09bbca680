"""File names: tell images and sidecars of a shard apart, and derive the key of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from actors.errors import ShardError
from actors.records import ShardFormat

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif"})

UNREAD_IMAGE_EXTENSIONS = frozenset({".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2"})
"""Images that the decoder refuses. They count as frames too, so that each is reported as failed."""

SIDECAR_EXTENSION = ".json"

VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv"}
    | {".asf", ".flv", ".3gp", ".h264", ".264", ".h265", ".hevc"}
)
"""Videos, which `shopframe shards --videos` cuts into shards. They are no input of a run."""

_SHARD_SUFFIXES: dict[str, ShardFormat] = {
    ".tar": "webdataset",
    ".tar.gz": "webdataset",
    ".tgz": "webdataset",
    ".parquet": "parquet",
    ".zip": "zip",
}

DAMAGED_TEXT = "backslashreplace"


def extension(name: str) -> str:
    """Return the last extension in lower case with its dot, or "" if there is none."""
    base = name.rpartition("/")[2]
    stem, dot, last = base.rpartition(".")
    return f".{last.lower()}" if dot and stem else ""


def format_of(path: str) -> ShardFormat | None:
    """Return the format of a file by its extension, or None if it is not an input."""
    lower = path.lower()
    for suffix, kind in _SHARD_SUFFIXES.items():
        if lower.endswith(suffix):
            return kind
    return "images" if is_image(path) else None


def without_shard_suffix(path: str) -> str:
    """Return the path of a tar, Parquet file or zip without its extension."""
    suffix = next((s for s in sorted(_SHARD_SUFFIXES, key=len, reverse=True) if path.lower().endswith(s)), "")
    return path[: len(path) - len(suffix or extension(path))]


def is_image(name: str) -> bool:
    """Return whether a file with this name counts as a frame."""
    return not is_hidden(name) and extension(name) in IMAGE_EXTENSIONS | UNREAD_IMAGE_EXTENSIONS


def is_video(name: str) -> bool:
    """Return whether a file with this name is cut as a video."""
    return not is_hidden(name) and extension(name) in VIDEO_EXTENSIONS


def is_sidecar(name: str) -> bool:
    """Return whether a file with this name describes the frame that has the same key."""
    return not is_hidden(name) and extension(name) == SIDECAR_EXTENSION


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden, such as `._a.jpg`, which macOS leaves behind."""
    return name.rpartition("/")[2].startswith(".")


def clean_text(name: str) -> str:
    """Return the name as valid Unicode, with bytes that were not UTF-8 written in hexadecimal."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", DAMAGED_TEXT)


def webdataset_key(name: str) -> str:
    """Return the key of a tar member: its path up to the first dot of the file name, as in WebDataset.

    A resource fork (`._a.jpg`) gets the key of the file that it belongs to, so that it doesn't separate an
    image from its sidecar.
    """
    folder, slash, base = clean_text(name).removeprefix("./").rpartition("/")
    return folder + slash + base.removeprefix("._").partition(".")[0]


def file_key(name: str) -> str:
    """Return the key of a loose or zipped image: its path without the extension."""
    name = clean_text(name).removeprefix("./")
    return name[: len(name) - len(extension(name))]


def describe_extensions(extensions: Counter[str]) -> str:
    """Describe the extensions that were found, the most frequent first, as in ".txt x3, .csv x1"."""
    found = sorted(extensions.items(), key=lambda item: (-item[1], item[0]))[:6]
    return ", ".join(f"{name or 'no extension'} x{count}" for name, count in found) or "nothing"


def no_images_error(found: Counter[str]) -> ShardError:
    """Return the error of a readable shard without frames. `found` counts its files by extension."""
    return ShardError(f"contains no images (found: {describe_extensions(found)})")


def size_error(size_bytes: int, max_bytes: int) -> str | None:
    """Return why an image of this size is not read, or None if it is read.

    Args:
        size_bytes: Size of the encoded image.
        max_bytes: The limit, `input.max_image_bytes`.
    """
    if size_bytes == 0:
        return "empty (0 bytes)"
    if size_bytes > max_bytes:
        return f"too large: {size_bytes} bytes, more than input.max_image_bytes allows ({max_bytes})"
    return None


@dataclass(slots=True)
class SeenKeys:
    """The keys of a shard so far, with the file that has each of them."""

    _names: dict[str, str] = field(default_factory=dict)

    def duplicate_error(self, key: str, name: str) -> str | None:
        """Register a key, or return an error if an earlier file already has it."""
        first = self._names.get(key)
        if first is None:
            self._names[key] = name
            return None
        return f"duplicate key: {clean_text(name)} has the key of {clean_text(first)} before it"
