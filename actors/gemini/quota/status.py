"""The status of a quota: how much is spent, how much is left and when it resets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from actors.gemini.quota.breaker import is_open
from actors.gemini.quota.ledger import Ledger, pacific_day, read_ledger, reset_of
from actors.gemini.quota.place import LedgerPlace, with_earlier
from actors.gemini.quota.rules import QuotaLimits, current, in_window, left_today, limit_at


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """The status of a quota at one moment.

    Attributes:
        limits: The configured limits.
        spent_today: Requests counted for today, including those in flight and in leases.
        left_today: Requests that may still be sent today. It is 0 if the server reported the day's quota
            as spent, and None if there is no limit.
        resets_at: The next midnight in Pacific time.
        window_requests: Requests counted in the last minute.
        window_tokens: Input tokens of these requests.
        requests_per_minute: The limit in force, which is the configured limit or less after a refusal.
        tokens_per_minute: The limit in force for input tokens, or None if there is no limit.
        held_until: Time in UTC until which the server told Shopframe to wait, or None.
        declared_spent: Whether the server reported the day's quota as spent, whatever was counted here.
        breaker_open: Whether one request at a time finds out if the server answers again.
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
    breaker_open: bool

    def days_left(self, pending_requests: int) -> int:
        """Return how many resets must pass before the last pending request can be sent; 0 means today."""
        a_day = self.limits.requests_per_minute * 24 * 60
        if self.limits.requests_per_day is not None:
            a_day = min(a_day, self.limits.requests_per_day)
        today = a_day if self.left_today is None else self.left_today
        return -(-max(0, pending_requests - today) // a_day)


def status_of(ledger: Ledger, limits: QuotaLimits, now: float) -> QuotaStatus:
    """Return the status of the quota from a ledger as it was read."""
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
        breaker_open=is_open(ledger.breaker),
    )


def read_status(place: LedgerPlace, limits: QuotaLimits, now: float) -> QuotaStatus:
    """Read the ledger and return the status of the quota. Callers don't need to hold the quota.

    Args:
        place: The place of the ledger.
        limits: The configured limits.
        now: Current time in seconds since the epoch.

    Raises:
        OutputError: The ledger is unreadable.
        OSError: The store can't be reached.
    """
    found = read_ledger(place.store, place.path)
    ledger = with_earlier(found[0] if found else Ledger(), place.earlier_ledgers(), now)
    return status_of(ledger, limits, now)
