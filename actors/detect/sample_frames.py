"""Choose frames of the input on which a network is quantised, and others on which it is compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from actors.errors import ShardError, ShardUnavailableError
from actors.read.frames import read_frames
from actors.read.settings import InputSettings
from actors.records import Shard
from actors.storage.settings import StorageSettings

CALIBRATION_FRAMES = 100
COMPARED_FRAMES = 50
_MOST_SHARDS = 30
_EVERY = 3
"""Every third shard, or frame, is for the comparison."""

_LONGEST_STEP = 8
"""Frames of a camera that follow each other look alike, so some are left out between two that are taken. But
all of them are read, so a longer step would only cost time."""


@dataclass(slots=True)
class FrameSample:
    """Encoded frames: some to quantise on, and others to compare on."""

    calibration: list[bytes] = field(default_factory=list)
    compared: list[bytes] = field(default_factory=list)

    @property
    def frame_bytes(self) -> float:
        """Mean size of an encoded frame, 0 if there is none."""
        frames = [*self.calibration, *self.compared]
        return sum(map(len, frames)) / max(1, len(frames))


def shards_to_sample(shards: Sequence[Shard]) -> list[Shard]:
    """Return all shards, or 30 of them at even distances."""
    step = max(1, len(shards) / _MOST_SHARDS)
    return [shards[int(number * step)] for number in range(min(len(shards), _MOST_SHARDS))]


def sample_frames(shards: Sequence[Shard], reading: InputSettings, storage: StorageSettings) -> FrameSample:
    """Read up to 100 frames to quantise on and up to 50 to compare on.

    From three shards on, the two kinds are of different shards. The choice depends only on the input. Frames
    and shards that can't be read are left out.

    Args:
        shards: The shards to sample; all of them are opened.
        reading: How to read them.
        storage: How to reach them.

    Raises:
        StoreError: The store can't be read now.
    """
    sample = FrameSample()
    by_kind = (sample.calibration, sample.compared)
    kinds = [number % _EVERY == _EVERY - 1 for number in range(len(shards))]
    if any(kinds):
        wanted = (-(-CALIBRATION_FRAMES // kinds.count(False)), -(-COMPARED_FRAMES // kinds.count(True)))
        for shard, kind in zip(shards, kinds, strict=True):
            by_kind[kind].extend(_frames_of(shard, reading, storage, wanted[kind]))
    else:
        each = -(-(CALIBRATION_FRAMES + COMPARED_FRAMES) // max(1, len(shards)))
        found = [data for shard in shards for data in _frames_of(shard, reading, storage, each)]
        for number, data in enumerate(found):
            by_kind[number % _EVERY == _EVERY - 1].append(data)
    del sample.calibration[CALIBRATION_FRAMES:], sample.compared[COMPARED_FRAMES:]
    return sample


def _frames_of(
    shard: Shard, reading: InputSettings, storage: StorageSettings, wanted: int
) -> Iterator[bytes]:
    """Yield the content of some frames of a shard, spread over it as far as the step allows."""
    try:
        frames = read_frames(shard, reading, storage)
        found = (frame.data for frame in frames if frame.data is not None)
        first = next(found, None)
        if first is None:
            return
        yield first
        step = min(max(1, shard.size_bytes // len(first) // wanted), _LONGEST_STEP)
        yield from islice(found, step - 1, step * (wanted - 1), step)
    except (ShardError, ShardUnavailableError):
        return
