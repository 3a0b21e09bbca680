"""Parts of a shard that are ranges of its frames, because the crops of all are too large for one block."""

from __future__ import annotations

from dataclasses import replace

from actors.records import Shard
from actors.storage import layout


def in_range(shard: Shard, number: int) -> bool:
    """Return whether a shard has the frame with this number, counted from 0 between `start` and `stop`."""
    return number >= shard.first_frame and (shard.stop_frame is None or number < shard.stop_frame)


def frames_of(shard: Shard, first_frame: int, stop_frame: int | None) -> Shard:
    """Return the part of a shard that has the frames from `first_frame` up to, not including, `stop_frame`.

    Args:
        shard: Any part of the shard that is cut.
        first_frame: Number of the first frame; the part that begins with 0 has the id of the whole shard.
        stop_frame: Number of the frame after the last one, or None for all frames up to the end of the shard.
    """
    shard_id = layout.rest_id(layout.cut_id(shard.shard_id), first_frame)
    return replace(shard, shard_id=shard_id, first_frame=first_frame, stop_frame=stop_frame)
