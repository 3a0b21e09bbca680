"""The result of Gemini's part of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from actors.gemini.protocol import Stop
from actors.gemini.quota.ledger import RunSpend


@dataclass(slots=True)
class GeminiRun:
    """What the stage did in this run.

    `held` counts shards that it left to another run that works on them, and `in_jobs` the crops in open batch
    jobs, about which online mode doesn't ask. `spent` is what the run has spent, and the interrupted run that
    it continued, if there was one.
    """

    answered: int = 0
    shards: int = 0
    held: int = 0
    in_jobs: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    stop: Stop | None = None
    spent: RunSpend | None = None

    @property
    def failed(self) -> bool:
        """Whether something went wrong that waiting for the quota won't fix."""
        return bool(self.errors) or (
            self.stop is not None and self.stop.kind in ("refused", "invalid", "unreachable")
        )

    @property
    def postponed(self) -> list[dict[str, str]]:
        """The shards that could not be asked about or committed, as `progress.json` lists them."""
        return [{"shard": shard_id, "error": error} for shard_id, error in self.errors[:1000]]

    def as_dict(self) -> dict[str, Any]:
        """Return the values that `progress.json` shows."""
        return {
            "answered": self.answered,
            "shards": self.shards,
            "held": self.held,
            "in_jobs": self.in_jobs,
            "failed": self.failed,
            "errors": dict(self.errors[:5]),
            "stopped": None if self.stop is None else asdict(self.stop),
            "cost_usd": None if self.spent is None else _costs(self.spent),
        }


def _costs(spent: RunSpend) -> dict[str, float]:
    return {
        "estimated": round(spent.expected_usd, 6),
        "counted": round(spent.counted_usd, 6),
        "unknown": round(spent.unknown_usd, 6),
    }
