"""Sums over shards: what `status`, the progress display and the end of a run count."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

_FAILURES_SHOWN = 5
_POSTPONED_LISTED = 1000
"""Number of postponed shards that `progress.json` lists. The log has all of them."""


@dataclass(slots=True)
class Totals:
    """Sums over commit records. `rests` counts the shards that a run has added to its plan.

    `keys_not_matched` counts the frames whose keys don't match `input.key_pattern`.

    The counts add up: frames = frames ok + frames failed, detected = kept + dropped, and kept = the sum of
    an annotator's outcomes, if the annotator was on for every shard.
    """

    shards: Counter[str] = field(default_factory=Counter)
    frames: Counter[str] = field(default_factory=Counter)
    persons: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    annotators: dict[str, Counter[str]] = field(default_factory=dict)
    cost_usd: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    failures: list[dict[str, str]] = field(default_factory=list)
    postponed: list[dict[str, str]] = field(default_factory=list)
    rests: int = 0
    keys_not_matched: int = 0

    def add(self, shard: Any) -> None:
        """Add one shard, given as its commit record or as the summary that its commit returned."""
        counts = shard.counts
        self.shards[shard.state] += 1
        self.rests += getattr(shard, "has_rest", False)
        self.frames.update(total=counts.frames, ok=counts.frames_ok, failed=counts.frames_failed)
        self.keys_not_matched += counts.keys_not_matched or 0
        dropped = sum(counts.dropped.values())
        self.persons.update(detected=counts.detected, kept=counts.kept, dropped=dropped)
        self.dropped.update(counts.dropped)
        for name, outcomes in shard.annotators.items():
            self.annotators.setdefault(name, Counter()).update(outcomes)
        for name, cost in getattr(shard, "cost_usd", {}).items():
            self.cost_usd[name] += cost
        if shard.state == "failed" and len(self.failures) < _FAILURES_SHOWN:
            self.failures.append({"shard": shard.shard_id, "error": str(shard.error)})
        if shard.state == "postponed" and len(self.postponed) < _POSTPONED_LISTED:
            self.postponed.append({"shard": shard.shard_id, "error": str(shard.error)})
