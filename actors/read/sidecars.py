"""Facts about a frame from its sidecar or row: the camera and the time."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from actors.read.file_names import DAMAGED_TEXT, clean_text
from actors.read.local_time import in_utc
from actors.read.settings import InputSettings
from actors.records import Frame

MAX_SIDECAR_BYTES = 2**20
"""A sidecar holds a camera and a time; a larger file is something else."""

_LONGEST_CAMERA = 1000


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """Facts that a sidecar or row gives about its frame. `note` says what could not be parsed."""

    camera: str | None = None
    captured_at: datetime | None = None
    note: str | None = None

    def apply(self, frame: Frame) -> Frame:
        """Return the frame with these facts."""
        return replace(frame, camera=self.camera, captured_at=self.captured_at, note=self.note)


NO_FACTS = FrameFacts()


def sidecar_too_large(name: str, size_bytes: int) -> FrameFacts:
    """Return the facts of a frame with a sidecar that is too large to be read."""
    return FrameFacts(
        note=f"sidecar {clean_text(name)} ignored: too large for a sidecar ({size_bytes} bytes)"
    )


def parse_sidecar(name: str, content: bytes, settings: InputSettings) -> FrameFacts:
    """Parse a sidecar. Anything wrong with it becomes a note."""
    label = f"sidecar {clean_text(name)}"
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        return FrameFacts(note=f"{label} ignored: not JSON ({str(error)[:100]})")
    if not isinstance(document, dict):
        return FrameFacts(note=f"{label} ignored: holds a {type(document).__name__}, not an object")
    camera = document.get(settings.camera_column or "camera")
    captured_at = document.get(settings.captured_at_column or "captured_at")
    return parse_facts(camera, captured_at, label, settings.timezone)


def parse_facts(camera: Any, captured_at: Any, label: str, zone: str) -> FrameFacts:
    """Return the camera and time from values of any type. Invalid values are left out and noted.

    Args:
        camera: Text or a whole number.
        captured_at: A datetime, ISO 8601 text or seconds since 1970.
        label: Where the values come from, for the note.
        zone: IANA name of the time zone of times that name none.
    """
    notes = []
    name: str | None = None
    time: datetime | None = None
    if isinstance(camera, str) or (isinstance(camera, int) and not isinstance(camera, bool)):
        name = _valid_unicode(str(camera)) or None
        if name is not None and len(name) > _LONGEST_CAMERA:
            notes.append(f"camera has {len(name)} characters, more than {_LONGEST_CAMERA}")
            name = None
    elif camera is not None:
        notes.append(f"camera is a {type(camera).__name__}, not text")
    if captured_at is not None:
        time, doubt = parse_time(captured_at, zone)
        if doubt is not None:
            notes.append(f"captured_at {doubt}")
    return FrameFacts(name, time, f"{label}: {'; '.join(notes)}" if notes else None)


def parse_time(value: Any, zone: str) -> tuple[datetime | None, str | None]:
    """Return the time in UTC, or None if the value is not a valid time, and what is wrong or doubtful."""
    try:
        if isinstance(value, str):
            return in_utc(datetime.fromisoformat(value.strip()), zone)
        if isinstance(value, datetime):
            return in_utc(value, zone)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return datetime.fromtimestamp(value, UTC), None
    except (ValueError, OverflowError, OSError):
        pass
    return None, f"{_valid_unicode(repr(value)[:60])} is neither ISO 8601 nor seconds since 1970"


def _valid_unicode(text: str) -> str:
    # JSON may hold lone surrogates ("\ud800"), which can't be written to any table.
    return text.encode("utf-8", DAMAGED_TEXT).decode("utf-8")
