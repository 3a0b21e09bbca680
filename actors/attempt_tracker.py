"""Who works on which shard since when: bounds poisonous inputs and tells a stall from slow work."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import ray


@dataclass(frozen=True, slots=True)
class InFlight:
    """A shard that a worker has begun and not finished; `for_s` in seconds."""

    stage: str
    shard_id: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of all stages at one moment.

    Attributes:
        in_flight: Longest first, at most 20.
        frames: Frames that went through the detector so far, uncommitted ones included.
        persons: Persons kept so far, likewise.
    """

    in_flight: tuple[InFlight, ...] = ()
    frames: int = 0
    persons: int = 0


@dataclass(slots=True)
class _Started:
    times: int = 0
    since: float = field(default_factory=time.monotonic)


class AttemptTracker:
    """Counts how often each stage began a shard without finishing it.

    Ray runs a task again whenever its worker dies. That is right for a worker that was killed, and
    endless for a shard that kills its workers; only the count tells the two apart. It lasts for one
    run, so that a killed run is never held against the shards that it was working on.
    """

    def __init__(self) -> None:
        self._started: dict[tuple[str, str], _Started] = {}
        self._seen: Counter[str] = Counter()
        self._refusal: str | None = None

    def start(self, stage: str, shard_id: str) -> int:
        """A worker begins a shard; returns how many times that has now happened, from 1."""
        entry = self._started.setdefault((stage, shard_id), _Started())
        entry.times += 1
        entry.since = time.monotonic()
        return entry.times

    def finish(self, stage: str, shard_id: str) -> None:
        """The worker has finished the shard, well or badly."""
        self._started.pop((stage, shard_id), None)

    def report_progress(self, frames: int = 0, persons: int = 0) -> None:
        """Progress within a shard, for the display."""
        self._seen.update(frames=frames, persons=persons)

    def refuse(self, reason: str) -> None:
        """A worker can't start for a reason that the settings have to mend."""
        self._refusal = self._refusal or reason

    def refusal(self) -> str | None:
        """Why the first such worker could not start, or None if there was none."""
        return self._refusal

    def snapshot(self) -> Snapshot:
        """What the driver needs to know."""
        now = time.monotonic()
        flying = sorted(self._started.items(), key=lambda item: item[1].since)[:20]
        return Snapshot(
            in_flight=tuple(InFlight(stage, shard, now - e.since) for (stage, shard), e in flying),
            frames=self._seen["frames"],
            persons=self._seen["persons"],
        )


def start_tracker() -> Any:
    """A tracker as a Ray actor that restarts wherever there is room; returns its handle."""
    remote = ray.remote(AttemptTracker)
    return remote.options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
