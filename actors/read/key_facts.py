"""Give frames the camera and the time that their paths name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from actors.read.file_names import clean_text, without_shard_suffix
from actors.read.key_pattern import KeyPattern, compile_pattern
from actors.read.settings import InputSettings
from actors.records import Frame, Shard


def path_of(shard: Shard, frame: Frame) -> str:
    """Return the path that `input.key_pattern` describes the end of.

    It is that of a loose image; in a tar, Parquet file or zip it is the path of this shard without its
    extension, and in it the name of the member or the key. So a packed folder has the paths of the folder.
    """
    folder = shard.uri if shard.format == "images" else without_shard_suffix(shard.uri)
    return f"{clean_text(folder).rstrip('/')}/{clean_text(frame.name).removeprefix('./')}"


def with_key_facts(frames: Iterable[Frame], shard: Shard, settings: InputSettings) -> Iterator[Frame]:
    """Yield the frames of a shard with the camera and the time that only their paths name.

    `settings.key_pattern` must be set. What a sidecar or a column gives stays.
    """
    pattern = compile_pattern(str(settings.key_pattern))
    for frame in frames:
        yield _completed(frame, path_of(shard, frame), pattern, settings.timezone)


def _completed(frame: Frame, path: str, pattern: KeyPattern, zone: str) -> Frame:
    lacks_camera = frame.camera is None and pattern.has_camera
    lacks_time = frame.captured_at is None and pattern.has_time
    if not lacks_camera and not lacks_time:
        return frame
    facts = pattern.read(path, zone)
    if facts is None:
        note = "its key doesn't match input.key_pattern"
        return replace(frame, is_key_matched=False, note=_joined(frame.note, note))
    return replace(
        frame,
        camera=facts.camera if lacks_camera else frame.camera,
        captured_at=facts.captured_at if lacks_time else frame.captured_at,
        note=_joined(frame.note, facts.note) if lacks_time else frame.note,
        is_key_matched=True,
    )


def _joined(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note is not None) or None
