"""One video file: its tags, and the frames that are picked from it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import IO, Self

import av
import av.filter
import numpy as np

from actors.errors import ShardError
from actors.read.key_pattern import KeyFacts
from actors.read.local_time import in_utc

_CAMERA_TAGS = ("camera", "title")
_TIME_TAGS = ("com.apple.quicktime.creationdate", "creation_time")
"""Tags of the whole file, in the order in which they are looked for. Keys are compared in lower case."""

_FIRST_YEAR = 1980
"""Recorders without a clock write the beginning of 1904 or 1970."""

_SCENE_WIDTH_PX = 320
"""Width at which frames are compared. Larger ones take longer and show more noise."""

_FRAMES_PER_S = 25
"""Assumed where neither the frames nor the file say when a frame is shown, as in raw H.264."""

_MISSING_S = 1.0
"""How much earlier than its file says a video may end. Durations are rounded."""


class Video:
    """A video file, opened.

    Args:
        file: Seekable file.

    Raises:
        ShardError: It is no video, or is damaged so that it can't be opened.
        OSError: The store failed.
    """

    def __init__(self, file: IO[bytes]) -> None:
        source = _Source(file)
        if not source.size_bytes:
            raise ShardError("empty (0 bytes)")
        try:
            self._container = av.open(source, "r", metadata_errors="replace")
        except av.FFmpegError as error:
            raise ShardError(f"not a video, or damaged: {error.strerror}") from error
        if not self._container.streams.video:
            self._container.close()
            raise ShardError("has no pictures, only other streams")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._damaged = 0
        self._end_s: float | None = None
        self._stopped: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def tags(self, zone: str) -> KeyFacts:
        """Return the camera and the start time that the file's own tags name.

        Args:
            zone: IANA name of the time zone of a time that names none.
        """
        tags = {key.lower(): value.strip() for key, value in self._container.metadata.items()}
        time, note = _time_of(tags, zone)
        return KeyFacts(next((tags[key] for key in _CAMERA_TAGS if tags.get(key)), None), time, note)

    def pick_every(self, seconds: float) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the first frame of each interval of so many seconds, from the first frame on.

        Yields:
            Seconds since the first frame, and the picture, (height, width, 3) uint8 in BGR order.

        Raises:
            OSError: The store failed.
        """
        interval = -1
        for offset_s, frame in self._frames():
            # A rounded time may lie a little before the interval that it begins.
            if (now := math.floor(offset_s / seconds + 1e-6)) > interval:
                interval = now
                yield offset_s, self._picture(frame)

    def pick_scenes(self, threshold: float) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the first frame, and each whose `scene` score is above a threshold.

        The score is that of FFmpeg's filter `select`. It says how much a frame differs from the one before
        it: 0 for equal ones, at most 1. What is yielded and raised is as for `pick_every`.
        """
        changes, shape = None, None
        for offset_s, frame in self._frames():
            if changes is None or shape != (frame.width, frame.height, frame.format.name):
                shape = (frame.width, frame.height, frame.format.name)
                changes = _SceneChanges(frame, threshold)
                changes.is_change(frame)
                yield offset_s, self._picture(frame)
            elif changes.is_change(frame):
                yield offset_s, self._picture(frame)

    def trouble(self) -> str | None:
        """Return what was wrong with the frames, after they were read, or None."""
        if self._end_s is None:
            return self._stopped or "has no frame that can be decoded"
        troubles = [] if self._stopped is None else [self._stopped]
        if self._damaged:
            troubles.append(f"{self._damaged} frames or packets are damaged and left out")
        stated = self._stated_duration_s()
        if stated is not None and self._end_s + _MISSING_S < stated:
            troubles.append(f"ends after {self._end_s:.1f} s of {stated:.1f} s")
        return "; ".join(troubles) or None

    def _frames(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield all intact frames with the seconds since the first one."""
        rate = self._stream.average_rate or self._stream.guessed_rate or _FRAMES_PER_S
        start_s: float | None = None
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self._stopped = f"damaged: {error.strerror}"
                return
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                self._damaged += 1
                continue
            for frame in decoded:
                # Raw streams have no times, so their frames follow each other.
                time_s = frame.time if frame.pts is not None else (start_s or 0.0) + (self._end_s or 0.0)
                start_s = time_s if start_s is None else start_s
                offset_s = time_s - start_s
                shown = frame.duration * frame.time_base if frame.duration and frame.time_base else 1 / rate
                self._end_s = offset_s + float(shown)
                if frame.is_corrupt:
                    self._damaged += 1
                    continue
                yield offset_s, frame

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        """Return a frame as it is displayed: with square pixels, and turned by a multiple of 90 degrees."""
        width = max(1, round(frame.width * (self._stream.sample_aspect_ratio or 1)))
        picture: np.ndarray = frame.to_ndarray(format="bgr24", width=width, height=frame.height)
        return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))

    def _stated_duration_s(self) -> float | None:
        duration, base = self._stream.duration, self._stream.time_base
        if duration is None or base is None:
            return None
        return float(duration * base)


class _Source:
    """A file that answers a seek to before its start as FFmpeg expects it, instead of raising an error.

    Such a position comes from damaged content; errors that are raised are those of the store.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self.size_bytes}[whence]
        return -1 if start + position < 0 else self._file.seek(start + position)

    def tell(self) -> int:
        return self._file.tell()


class _SceneChanges:
    """Compares each frame with the one before it. All have the size and format of the first one."""

    def __init__(self, frame: av.VideoFrame, threshold: float) -> None:
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        scale = self._graph.add("scale", f"w={_SCENE_WIDTH_PX}:h=-2")
        select = self._graph.add("select", f"gt(scene,{threshold})")
        sink = self._graph.add("buffersink")
        for one, next_one in ((source, scale), (scale, select), (select, sink)):
            one.link_to(next_one)
        self._graph.configure()

    def is_change(self, frame: av.VideoFrame) -> bool:
        """Return whether this frame differs from the last one by more than the threshold."""
        self._graph.push(frame)
        try:
            self._graph.pull()
        except av.BlockingIOError:
            return False
        return True


def _time_of(tags: Mapping[str, str], zone: str) -> tuple[datetime | None, str | None]:
    for key in _TIME_TAGS:
        try:
            moment, note = in_utc(datetime.fromisoformat(tags.get(key, "")), zone)
        except (ValueError, OverflowError):
            continue
        if moment.year >= _FIRST_YEAR:
            return moment, note
    return None, None
