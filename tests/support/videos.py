"""Small real videos."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.support import bad_inputs as bad

WIDTH, HEIGHT = 96, 64


def video(
    seeds: Sequence[int],
    *,
    fps: int = 4,
    kind: str = "mp4",
    codec: str = "libx264",
    tags: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    pixel_shape: Fraction | None = None,
) -> bytes:
    """Return a video with one picture for each seed."""
    # Not in memory, because FFmpeg opens a file again to move its index to the front.
    with (
        tempfile.NamedTemporaryFile() as file,
        av.open(file.name, "w", format=kind, options=dict(options or {})) as container,
    ):
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if pixel_shape is not None:
            stream.codec_context.sample_aspect_ratio = pixel_shape
        for seed in seeds:
            frame = av.VideoFrame.from_ndarray(bad.pixels(WIDTH, HEIGHT, seed), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.close()
        return Path(file.name).read_bytes()


def sound() -> bytes:
    """Return an MP4 without pictures."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


def turned(content: bytes) -> bytes:
    """Return an MP4 whose pictures are displayed after a quarter turn clockwise."""
    # ISO/IEC 14496-12: the matrix comes 40 bytes after the version of a track header of version 0.
    at = content.index(b"tkhd") + 4 + 40
    quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    return content[:at] + b"".join(n.to_bytes(4, "big", signed=True) for n in quarter) + content[at + 36 :]


class FailingFile(io.BytesIO):
    """A file whose store is lost after so many bytes."""

    def __init__(self, content: bytes, good_bytes: int) -> None:
        super().__init__(content)
        self._good_bytes = good_bytes

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= self._good_bytes:
            raise ConnectionResetError("the connection was lost")
        return super().read(size)
