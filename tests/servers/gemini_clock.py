"""The Gemini server's clock, and the quota that it enforces."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo

PACIFIC = ZoneInfo("America/Los_Angeles")
WINDOW_S = 60.0


class ServerClock:
    """A clock in seconds since the epoch that runs at any speed.

    At speed 0, it stands still until it is advanced. If clients advance it instead of waiting, simulated days
    take no real time and nothing depends on timing. At any other speed, `now` is
    `start + (time.time() - real_start) * speed`, in every process.
    """

    def __init__(self, start: float | None = None, speed: float = 1.0) -> None:
        self.real_start = time.time()
        self.start = self.real_start if start is None else start
        self.speed = speed

    def now(self) -> float:
        return self.start + (time.time() - self.real_start) * self.speed

    def advance(self, seconds: float) -> float:
        self.start += seconds
        return self.now()

    def set(self, start: float | None = None, speed: float | None = None) -> None:
        now = self.now() if start is None else start
        self.real_start, self.start = time.time(), now
        self.speed = self.speed if speed is None else speed

    def state(self) -> dict[str, float]:
        return {
            "now": self.now(),
            "start": self.start,
            "real_start": self.real_start,
            "speed": self.speed,
        }


@dataclass(frozen=True)
class Limits:
    """Quota of one project and model; None means no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None


@dataclass(frozen=True)
class Violation:
    """A limit that a request would exceed, Google's names for it, and how long the client should wait."""

    quota_metric: str
    quota_id: str
    limit: int
    retry_after_s: float


@dataclass
class Quota:
    """Use of one model by one project.

    Attributes:
        limits: The limits.
        window: Time and tokens of each request of the last minute.
        days: Number of requests by Pacific day.
    """

    limits: Limits
    window: deque[tuple[float, int]] = field(default_factory=deque)
    days: dict[date, int] = field(default_factory=dict)

    def violations(self, now: float, tokens: int) -> list[Violation]:
        """Return the limits that a request at this time would exceed; empty if it would be admitted."""
        while self.window and self.window[0][0] <= now - WINDOW_S:
            self.window.popleft()
        limits, found = self.limits, []
        family = "generativelanguage.googleapis.com/generate_content_free_tier"
        if (
            limits.requests_per_day is not None
            and self.days.get(pacific_day(now), 0) >= limits.requests_per_day
        ):
            found.append(
                Violation(
                    f"{family}_requests",
                    "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
                    limits.requests_per_day,
                    # Google has been seen to send a short time here that is unrelated to the daily reset.
                    38.0,
                )
            )
        if limits.requests_per_minute is not None and len(self.window) >= limits.requests_per_minute:
            free_at = self.window[len(self.window) - limits.requests_per_minute][0] + WINDOW_S
            found.append(
                Violation(
                    f"{family}_requests",
                    "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
                    limits.requests_per_minute,
                    free_at - now,
                )
            )
        used = sum(count for _, count in self.window)
        if limits.tokens_per_minute is not None and used + tokens > limits.tokens_per_minute:
            found.append(
                Violation(
                    f"{family}_input_token_count",
                    "GenerateContentInputTokensPerModelPerMinute-FreeTier",
                    limits.tokens_per_minute,
                    self._tokens_free_in(now, used + tokens - limits.tokens_per_minute),
                )
            )
        return found

    def count(self, now: float, tokens: int) -> None:
        self.window.append((now, tokens))
        day = pacific_day(now)
        self.days[day] = self.days.get(day, 0) + 1

    def _tokens_free_in(self, now: float, excess: int) -> float:
        for at, count in self.window:
            excess -= count
            if excess <= 0:
                return at + WINDOW_S - now
        return WINDOW_S


def pacific_day(now: float) -> date:
    """Return the Pacific day for which a daily quota counts a request."""
    return datetime.fromtimestamp(now, PACIFIC).date()
