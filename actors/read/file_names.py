"""Names and sidecars: which file of a shard is an image, under which key, and what is said of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from actors.errors import ShardError
from actors.read.settings import InputSettings
from actors.records import Frame

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif"})

UNREAD_IMAGE_EXTENSIONS = frozenset({".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2"})
"""Images that the decoder refuses. They are frames all the same, so that each is counted as failed."""

SIDECAR_EXTENSION = ".json"

MAX_SIDECAR_BYTES = 2**20
"""A sidecar holds a camera and a time; a larger file is something else."""

_DAMAGED_TEXT = "backslashreplace"


def extension(name: str) -> str:
    """The last extension in lower case with its dot, or "" if there is none."""
    base = name.rpartition("/")[2]
    stem, dot, last = base.rpartition(".")
    return f".{last.lower()}" if dot and stem else ""


def is_image(name: str) -> bool:
    """Whether a file of this name counts as a frame."""
    return not is_hidden(name) and extension(name) in IMAGE_EXTENSIONS | UNREAD_IMAGE_EXTENSIONS


def is_sidecar(name: str) -> bool:
    """Whether a file of this name describes the frame of the same key."""
    return not is_hidden(name) and extension(name) == SIDECAR_EXTENSION


def is_hidden(name: str) -> bool:
    """Whether a file is left over from a file system, such as macOS's `._a.jpg`."""
    return name.rpartition("/")[2].startswith(".")


def clean_text(name: str) -> str:
    """The name as valid Unicode: bytes that were not UTF-8 are written in hexadecimal."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", _DAMAGED_TEXT)


def webdataset_key(name: str) -> str:
    """Key of a tar member: its path up to the first dot of the file name, as WebDataset has it.

    Resource forks (`._a.jpg`) get the key of the file that they belong to, so that they don't come
    between an image and its sidecar.
    """
    folder, slash, base = clean_text(name).removeprefix("./").rpartition("/")
    return folder + slash + base.removeprefix("._").partition(".")[0]


def file_key(name: str) -> str:
    """Key of a loose or zipped image: its path without the extension."""
    name = clean_text(name).removeprefix("./")
    return name[: len(name) - len(extension(name))]


def describe_extensions(extensions: Counter[str]) -> str:
    """What was found instead, the most frequent first: ".txt x3, .csv x1"."""
    found = sorted(extensions.items(), key=lambda item: (-item[1], item[0]))[:6]
    return ", ".join(f"{name or 'no extension'} x{count}" for name, count in found) or "nothing"


def no_images_error(found: Counter[str]) -> ShardError:
    """A shard that can be read and holds no frame; `found` counts what it holds by extension."""
    return ShardError(f"contains no images (found: {describe_extensions(found)})")


def size_error(size_bytes: int, settings: InputSettings) -> str | None:
    """Why an image of this size is not read, or None."""
    if size_bytes == 0:
        return "empty (0 bytes)"
    if size_bytes > settings.max_image_bytes:
        limit = settings.max_image_bytes
        return f"too large: {size_bytes} bytes, more than input.max_image_bytes allows ({limit})"
    return None


@dataclass(slots=True)
class SeenKeys:
    """The keys that a shard has had so far, with the file that had each."""

    _names: dict[str, str] = field(default_factory=dict)

    def duplicate_error(self, key: str, name: str) -> str | None:
        """Claim a key; says why it can't be had if an earlier file has it."""
        first = self._names.get(key)
        if first is None:
            self._names[key] = name
            return None
        return f"duplicate key: {clean_text(name)} has the key of {clean_text(first)} before it"


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What a sidecar or row says of its frame; `note` tells what could not be understood."""

    camera: str | None = None
    captured_at: datetime | None = None
    note: str | None = None

    def apply(self, frame: Frame) -> Frame:
        """The frame with these facts."""
        return replace(frame, camera=self.camera, captured_at=self.captured_at, note=self.note)


NO_FACTS = FrameFacts()


def sidecar_too_large(name: str, size_bytes: int) -> FrameFacts:
    """What is known of a frame whose sidecar was not read."""
    return FrameFacts(note=f"sidecar {clean_text(name)} ignored: {size_bytes} bytes are no sidecar")


def parse_sidecar(name: str, content: bytes, settings: InputSettings) -> FrameFacts:
    """Read a sidecar; whatever is wrong with it becomes a note."""
    label = f"sidecar {clean_text(name)}"
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        return FrameFacts(note=f"{label} ignored: not JSON ({str(error)[:100]})")
    if not isinstance(document, dict):
        return FrameFacts(note=f"{label} ignored: holds a {type(document).__name__}, not an object")
    camera = document.get(settings.camera_column or "camera")
    captured_at = document.get(settings.captured_at_column or "captured_at")
    return parse_facts(camera, captured_at, label)


def parse_facts(camera: Any, captured_at: Any, label: str) -> FrameFacts:
    """Camera and time from values of any type; wrong ones are left out and noted.

    Args:
        camera: Text or a whole number.
        captured_at: A datetime, ISO 8601 text or seconds since 1970; without a zone it is UTC.
        label: Where the values come from, for the note.
    """
    notes = []
    name: str | None = None
    time: datetime | None = None
    if isinstance(camera, str) or (isinstance(camera, int) and not isinstance(camera, bool)):
        name = _valid_unicode(str(camera)) or None
    elif camera is not None:
        notes.append(f"camera is a {type(camera).__name__}, not text")
    if captured_at is not None:
        time = parse_time(captured_at)
        if time is None:
            shown = _valid_unicode(repr(captured_at)[:60])
            notes.append(f"captured_at {shown} is neither ISO 8601 nor seconds since 1970")
    return FrameFacts(name, time, f"{label}: {'; '.join(notes)}" if notes else None)


def parse_time(value: Any) -> datetime | None:
    """The moment in UTC, or None if the value is none."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value.strip())
        elif isinstance(value, datetime):
            moment = value
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return datetime.fromtimestamp(value, UTC)
        else:
            return None
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _valid_unicode(text: str) -> str:
    # JSON may hold lone surrogates ("\ud800"), which can't be written to any table.
    return text.encode("utf-8", _DAMAGED_TEXT).decode("utf-8")
