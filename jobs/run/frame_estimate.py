"""Estimate the number of frames of a shard, which is known only after reading it."""

from __future__ import annotations

from actors.read.file_names import is_image
from actors.read.loose_images import list_members
from actors.records import Shard

_FRAME_BYTES = 100_000
"""Assumed size of a frame in a tar, zip or Parquet file: a small JPEG of a 1080p camera."""


def estimated_frames(shard: Shard) -> int:
    """Return the number of loose images in a shard, or about as many frames as its size makes likely."""
    if shard.format == "images":
        return sum(map(is_image, list_members(shard.members)))
    return max(1, shard.size_bytes // _FRAME_BYTES)
