"""How a quota stands: what was spent, what is left, when it resets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from actors.gemini.quota.ledger import Ledger, pacific_day, read_ledger, reset_of
from actors.gemini.quota.rules import QuotaLimits, current, in_window, left_today, limit_at
from actors.storage.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """How a quota stands at one moment.

    Attributes:
        limits: As configured.
        spent_today: Requests counted for today, those in flight and leased included.
        left_today: Requests that may still be sent today; 0 once the server declared the day spent, None
            where there is no limit.
        resets_at: The coming midnight, in Pacific time.
        window_requests: Requests counted in the last minute.
        window_tokens: Their input tokens.
        requests_per_minute: The limit in force: as configured, or less after a refusal.
        tokens_per_minute: Likewise; None where there is no limit.
        held_until: Until when the server told everybody to wait, in UTC, or None.
        declared_spent: Whether the server declared the day spent, whatever we counted.
    """

    limits: QuotaLimits
    spent_today: int
    left_today: int | None
    resets_at: datetime
    window_requests: int
    window_tokens: int
    requests_per_minute: int
    tokens_per_minute: int | None
    held_until: datetime | None
    declared_spent: bool

    def days_left(self, pending_requests: int) -> int:
        """How many resets must pass before the last of so many requests can be sent; 0 is today."""
        a_day = self.limits.requests_per_minute * 24 * 60
        if self.limits.requests_per_day is not None:
            a_day = min(a_day, self.limits.requests_per_day)
        today = a_day if self.left_today is None else self.left_today
        return -(-max(0, pending_requests - today) // a_day)


def status_of(ledger: Ledger, limits: QuotaLimits, now: float) -> QuotaStatus:
    """How the quota stands, with a ledger as it was read."""
    ledger = current(ledger, now)
    today = pacific_day(now)
    counted = in_window(ledger, now)
    tokens = limits.tokens_per_minute
    return QuotaStatus(
        limits=limits,
        spent_today=ledger.days.get(today, 0),
        left_today=left_today(ledger, limits, today),
        resets_at=reset_of(today),
        window_requests=sum(lease.requests for lease in counted),
        window_tokens=sum(lease.tokens for lease in counted),
        requests_per_minute=limit_at(ledger, limits.requests_per_minute, now),
        tokens_per_minute=None if tokens is None else limit_at(ledger, tokens, now),
        held_until=datetime.fromtimestamp(ledger.held_until, UTC) if ledger.held_until > now else None,
        declared_spent=ledger.spent_day == today,
    )


def read_status(store: ObjectStore, path: str, limits: QuotaLimits, now: float) -> QuotaStatus:
    """How a quota stands, for those who send nothing too.

    Args:
        store: Where the ledger lies.
        path: From `layout.quota_path`.
        limits: As configured.
        now: Seconds since the epoch.

    Raises:
        OutputError: The ledger is unreadable.
        OSError: The store can't be reached.
    """
    found = read_ledger(store, path)
    return status_of(found[0] if found else Ledger(), limits, now)
