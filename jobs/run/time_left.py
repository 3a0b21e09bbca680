"""A rough estimate of the time that a run still needs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from actors.attempt_tracker import Snapshot
from actors.commit.accounting import ShardSummary
from actors.time_text import duration

_LEAST_SHARE = 0.01
"""Share of the work from which its speed says something about the rest."""


class TimeLeft:
    """Estimates the time left from the shards that are done, and from the frames and answers of the others.

    Large shards are committed late and many at a time, so commits alone say little for long. From the shards
    that are committed follows how many frames and persons the others have in proportion to their bytes.

    Args:
        sizes: Size of each planned shard in bytes, by its id.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = {shard_id: max(1, size) for shard_id, size in sizes.items()}
        self._all = sum(self._sizes.values())
        self._ended = self._done = 0
        self._frames = self._persons = 0
        self._began: float | None = None

    def add(self, summary: ShardSummary) -> None:
        """Count a shard that was committed or couldn't be."""
        size = self._sizes.get(summary.shard_id, 0)
        self._ended += size
        if summary.state == "done":
            self._done += size
            self._frames += summary.counts.frames
            self._persons += summary.counts.kept

    def text(self, now: float, snapshot: Snapshot) -> str:
        """Return for example "about 25 min left", or nothing while there is too little to go by.

        Args:
            now: The time of a clock that never goes back, in seconds.
            snapshot: The state of all stages.
        """
        if self._began is None and (snapshot.frames or snapshot.answers or self._ended):
            self._began = now
        share = self._share(snapshot)
        if self._began is None or share is None or not _LEAST_SHARE <= share < 1:
            return ""
        return _rough((now - self._began) * (1 - share) / share)

    def _share(self, snapshot: Snapshot) -> float | None:
        """Return which share of the work is done, or None before the first shard is committed."""
        if not self._done:
            return None
        # Those that were postponed or failed have no counts.
        others = (self._all - (self._ended - self._done)) / self._done
        within = [
            seen / (counted * others)
            for seen, counted in ((snapshot.frames, self._frames), (snapshot.answers, self._persons))
            if seen and counted
        ]
        # The slowest stage decides. A shard that is taken up again makes frames and answers count twice.
        return max(self._ended / self._all, min([*within, 0.99]) if within else 0)


def _rough(seconds: float) -> str:
    if seconds < 60:
        return "less than 1 min left"
    minutes = seconds / 60
    step = 1 if minutes < 10 else 5 if minutes < 60 else 10
    return f"about {duration(60 * step * math.ceil(minutes / step))} left"
