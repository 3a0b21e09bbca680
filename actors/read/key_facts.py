"""Give frames the camera and the time that their paths name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from actors.read.file_names import clean_text, without_shard_suffix
from actors.read.key_pattern import KeyPattern, compile_pattern
from actors.read.settings import InputSettings
from actors.records import Frame, Shard


def paths_of(shard: Shard, frame: Frame) -> list[str]:
    """Return the paths of which `input.key_pattern` describes the end of one, the likelier one first.

    A loose image has one. In a tar, Parquet file or zip, the path of this shard without its extension comes
    first, so that a packed folder has the paths of the folder, and then the path with its extension; the
    name of the member or the key follows.
    """
    folders = [shard.uri] if shard.format == "images" else [without_shard_suffix(shard.uri), shard.uri]
    name = clean_text(frame.name).removeprefix("./")
    return [f"{clean_text(folder).rstrip('/')}/{name}" for folder in folders]


def with_key_facts(frames: Iterable[Frame], shard: Shard, settings: InputSettings) -> Iterator[Frame]:
    """Yield the frames of a shard with the camera and the time that only their paths name.

    `settings.key_pattern` must be set. What a sidecar or a column gives stays.
    """
    pattern = compile_pattern(str(settings.key_pattern))
    for frame in frames:
        yield _completed(frame, shard, pattern, settings.timezone)


def _completed(frame: Frame, shard: Shard, pattern: KeyPattern, zone: str) -> Frame:
    lacks_camera = frame.camera is None and pattern.has_camera
    lacks_time = frame.captured_at is None and pattern.has_time
    if not lacks_camera and not lacks_time:
        return frame
    read = (pattern.read(path, zone) for path in paths_of(shard, frame))
    facts = next((found for found in read if found is not None), None)
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
