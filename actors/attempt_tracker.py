"""Track which worker is processing which shard, and since when.

This limits the retries of shards that crash their workers, and tells a stall from slow work.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import ray


@dataclass(frozen=True, slots=True)
class InFlight:
    """A shard that a worker has started and not finished; `for_s` is the time since then, in seconds."""

    stage: str
    shard_id: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of all stages at one moment.

    Attributes:
        in_flight: Shards in progress, the longest first, at most 20.
        frames: Frames that the detector has processed so far, including those not committed yet.
        persons: Persons kept so far, including those not committed yet.
    """

    in_flight: tuple[InFlight, ...] = ()
    frames: int = 0
    persons: int = 0


@dataclass(slots=True)
class _Started:
    times: int = 0
    since: float = field(default_factory=time.monotonic)


class AttemptTracker:
    """Counts how often each stage has started a shard without finishing it.

    Ray runs a task again whenever its worker dies. That is right if the worker was killed by chance, but
    never ends if the shard itself crashes its workers; only the count tells the two apart. The count
    lasts for one run, so a killed run never counts against the shards that it was processing.
    """

    def __init__(self) -> None:
        self._started: dict[tuple[str, str], _Started] = {}
        self._seen: Counter[str] = Counter()
        self._refusal: str | None = None

    def start(self, stage: str, shard_id: str) -> int:
        """Record that a worker starts a shard, and return how often that has happened by now, from 1."""
        entry = self._started.setdefault((stage, shard_id), _Started())
        entry.times += 1
        entry.since = time.monotonic()
        return entry.times

    def finish(self, stage: str, shard_id: str) -> None:
        """Record that the worker has finished the shard, successfully or not."""
        self._started.pop((stage, shard_id), None)

    def report_progress(self, frames: int = 0, persons: int = 0) -> None:
        """Add progress within a shard, for the display."""
        self._seen.update(frames=frames, persons=persons)

    def refuse(self, reason: str) -> None:
        """Record that a worker can't start for a reason that only a change of the settings can fix."""
        self._refusal = self._refusal or reason

    def refusal(self) -> str | None:
        """Return why the first such worker could not start, or None if all could."""
        return self._refusal

    def snapshot(self) -> Snapshot:
        """Return the current state of all stages, for the driver."""
        now = time.monotonic()
        flying = sorted(self._started.items(), key=lambda item: item[1].since)[:20]
        return Snapshot(
            in_flight=tuple(InFlight(stage, shard, now - e.since) for (stage, shard), e in flying),
            frames=self._seen["frames"],
            persons=self._seen["persons"],
        )


def start_tracker() -> Any:
    """Start a tracker as a Ray actor, which restarts on any node with room, and return its handle."""
    remote = ray.remote(AttemptTracker)
    return remote.options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
