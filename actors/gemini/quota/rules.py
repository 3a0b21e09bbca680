"""The rules of a quota: pure functions of a ledger, the limits and a time.

A ledger that was written by a clock ahead of the reader's holds times that haven't come yet. Whatever
it tells of has happened all the same, so it counts as if it happened now: never too little, and not
for longer than a window or a day. A clock that is set back is the same case.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from actors.gemini.quota.ledger import Lease, Ledger, pacific_day, reset_of

WINDOW_S = 60.0
"""The window of the limits a minute, on the server's clock."""

ARRIVAL_MARGIN_S = 2.0
"""How much later than it was handed out a request may arrive. The server's window begins with the
arrival, so ours is this much longer: at 10 requests a minute it costs 3% of the rate. It also covers
clocks of different machines that differ by less."""

LEASE_S = 3.0
"""How long the requests of a lease may be handed out: a twentieth of the window, which is what a lease
can cost of the rate. Other holders learn within this time what one was told by the server."""

RESET_MARGIN_S = 30.0
"""After midnight nothing is sent for so long: a server whose day begins a little later than ours would
refuse, and a refusal for the day is believed until the next midnight."""

SHRINK = 0.5
"""What a refusal leaves of the limits a minute. Halving is what TCP does (RFC 5681); decrease by a
factor and increase by steps is what lets holders who share a limit converge (Chiu and Jain, 1989)."""

RECOVERY_PER_S = 0.05 / 60
"""Share of the configured limits that comes back: a twentieth a minute, so that after a halving all is
back in ten minutes, and a limit that is set too high costs one refusal in some minutes, not one in each."""

SMALLEST_SHARE = 1 / 16
"""The limits never shrink below this share (nor below one request a minute): four refusals in a row."""

_OPEN_KEPT_S = 3600.0
"""A lease out of the window is kept for so long if its holder may still return a part of it."""


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """What the project may do with one model, as configured.

    Attributes:
        requests_per_minute: At least 1.
        tokens_per_minute: Input tokens, at least 1, or None where there is no such limit.
        requests_per_day: At least 1, or None likewise; the day is Pacific.
    """

    requests_per_minute: int
    tokens_per_minute: int | None
    requests_per_day: int | None


@dataclass(frozen=True, slots=True)
class NotNow:
    """A request that may not be sent yet.

    Attributes:
        until: When to ask again, in seconds since the epoch; not a promise, as others may be faster.
        reason: `per_day`: the day is spent, `until` is after the reset. `day_change`: the moments around
            midnight, in which the day of an arrival is uncertain. Else the limit that is in the way;
            `per_minute` also while the server's advice to wait holds. All but `per_day` are short.
    """

    until: float
    reason: Literal["per_minute", "tokens_per_minute", "per_day", "day_change"]


@dataclass(frozen=True, slots=True)
class LeaseUse:
    """What a holder knows of its lease by now; all absolute, so telling it twice does no harm.

    Attributes:
        lease_id: Of which lease.
        requests: Handed out; the rest is returned.
        tokens: Of these requests, corrected as far as their answers came.
        sent_by: When the last of them was handed out.
    """

    lease_id: str
    requests: int
    tokens: int
    sent_by: float


def leaves_at(lease: Lease) -> float:
    """When no request of the lease can be in a window of the server any more."""
    return lease.sent_by + WINDOW_S + ARRIVAL_MARGIN_S


def is_ahead(ledger: Ledger, now: float) -> bool:
    """Whether a clock ahead of this one wrote the ledger, by more than the margin covers."""
    today = pacific_day(now)
    if any(day > today for day in ledger.days) or (ledger.spent_day is not None and ledger.spent_day > today):
        return True
    latest = max([ledger.held_from, ledger.shrunk_at, *(lease.sent_by - LEASE_S for lease in ledger.leases)])
    return latest > now + ARRIVAL_MARGIN_S


def current(ledger: Ledger, now: float) -> Ledger:
    """The ledger without what no longer matters, and with nothing in it that hasn't come yet."""
    today = pacific_day(now)
    days = {day: spent for day, spent in ledger.days.items() if today - timedelta(days=1) <= day < today}
    since_midnight = sum(spent for day, spent in ledger.days.items() if day >= today)
    if since_midnight:
        days[today] = since_midnight
    leases = [_not_ahead(lease, now, today) for lease in ledger.leases]
    change: dict[str, object] = {
        "days": days,
        "leases": tuple(lease for lease in leases if _matters(lease, now)),
    }
    if ledger.spent_day is not None:
        change["spent_day"] = min(ledger.spent_day, today)
    if ledger.held_from > now + ARRIVAL_MARGIN_S:
        change |= {"held_from": now, "held_until": now + ledger.held_until - ledger.held_from}
    if ledger.shrunk_at > now + ARRIVAL_MARGIN_S:
        change["shrunk_at"] = now
    return ledger.model_copy(update=change)


def _not_ahead(lease: Lease, now: float, today: date) -> Lease:
    ahead = lease.sent_by > now + LEASE_S + ARRIVAL_MARGIN_S
    if not ahead and lease.day <= today:
        return lease
    sent_by = now + LEASE_S if ahead else lease.sent_by
    return lease.model_copy(update={"day": min(lease.day, today), "sent_by": sent_by})


def _matters(lease: Lease, now: float) -> bool:
    return leaves_at(lease) + (_OPEN_KEPT_S if lease.open else 0) > now


def share_at(ledger: Ledger, now: float) -> float:
    """The share of the configured limits a minute that is in force, above 0 and at most 1."""
    return min(1.0, ledger.share + RECOVERY_PER_S * max(0.0, now - ledger.shrunk_at))


def limit_at(ledger: Ledger, limit: int, now: float) -> int:
    """What is in force of a limit a minute, at least 1."""
    # The shares of a recovery add up to not quite 1, and 10 requests of it would be 9.
    return max(1, int(limit * share_at(ledger, now) + 1e-6))


def largest_lease(limits: QuotaLimits) -> int:
    """How many requests one lease may hold, at least 1.

    A twentieth of the requests a minute is what a lease can use in its time at a steady rate. A holder
    that is killed wastes the unused part, so a lease is also at most 1/500 of a day: below 1,000
    requests a day every request is a lease of its own, and nothing but the one in flight is wasted.
    """
    at_most = limits.requests_per_minute // 20
    if limits.requests_per_day is not None:
        at_most = min(at_most, limits.requests_per_day // 500)
    return max(1, at_most)


def grant(ledger: Ledger, limits: QuotaLimits, now: float, tokens: int, wanted: int) -> Lease | NotNow:
    """Decide on at most `wanted` requests of `tokens` input tokens each.

    Args:
        ledger: As `current` gives it.
        limits: As configured.
        now: Seconds since the epoch.
        tokens: Of each request, at least 1 and at most `limits.tokens_per_minute`.
        wanted: At least 1.

    Returns:
        A lease of at least one request, which `with_lease` counts, or why there is none.
    """
    today = pacific_day(now)
    begins, ends = reset_of(today - timedelta(days=1)).timestamp(), reset_of(today).timestamp()
    left = left_today(ledger, limits, today)
    if now < begins + RESET_MARGIN_S:
        return NotNow(begins + RESET_MARGIN_S, "day_change")
    if left == 0:
        return NotNow(ends + RESET_MARGIN_S, "per_day")
    if now >= ends - ARRIVAL_MARGIN_S:
        return NotNow(ends + RESET_MARGIN_S, "day_change")
    if now < ledger.held_until:
        return NotNow(ledger.held_until, "per_minute")
    counted = in_window(ledger, now)
    free = limit_at(ledger, limits.requests_per_minute, now) - sum(lease.requests for lease in counted)
    if free <= 0:
        return NotNow(_room_at(counted, 1 - free, lambda lease: lease.requests), "per_minute")
    requests = min(wanted, free, wanted if left is None else left)
    if limits.tokens_per_minute is not None:
        counting = [lease for lease in counted if lease.tokens]
        in_force = limit_at(ledger, limits.tokens_per_minute, now)
        free_tokens = in_force - sum(lease.tokens for lease in counting)
        # A request above the shrunken limit but not the configured one goes when nothing else is in
        # the window: it would otherwise wait for the recovery.
        if tokens > free_tokens and counting:
            until = _room_at(counting, tokens - free_tokens, lambda lease: lease.tokens)
            return NotNow(until, "tokens_per_minute")
        requests = min(requests, max(1, free_tokens // tokens))
    return Lease(
        lease_id=uuid.uuid4().hex[:12],
        day=today,
        sent_by=min(now + LEASE_S, ends - ARRIVAL_MARGIN_S),
        requests=requests,
        tokens=requests * tokens,
        open=requests > 1,
    )


def in_window(ledger: Ledger, now: float) -> list[Lease]:
    """The leases that count for the limits a minute."""
    return [lease for lease in ledger.leases if leaves_at(lease) > now]


def left_today(ledger: Ledger, limits: QuotaLimits, today: date) -> int | None:
    """Requests that may still be sent in a day, or None where there is no limit."""
    if ledger.spent_day == today:
        return 0
    if limits.requests_per_day is None:
        return None
    return max(0, limits.requests_per_day - ledger.days.get(today, 0))


def _room_at(leases: Sequence[Lease], missing: int, amount: Callable[[Lease], int]) -> float:
    """When so much has left the window, or else when it is empty."""
    until = 0.0
    for lease in sorted(leases, key=leaves_at):
        until = leaves_at(lease)
        missing -= amount(lease)
        if missing <= 0:
            break
    return until


def with_lease(ledger: Ledger, lease: Lease) -> Ledger:
    """Count a lease."""
    days = {**ledger.days, lease.day: ledger.days.get(lease.day, 0) + lease.requests}
    return ledger.model_copy(update={"days": days, "leases": (*ledger.leases, lease)})


def with_use(ledger: Ledger, uses: Iterable[LeaseUse]) -> Ledger:
    """Correct leases by what was really used; those that have left the ledger stay as they counted."""
    known = {use.lease_id: use for use in uses}
    days = dict(ledger.days)
    leases = []
    for lease in ledger.leases:
        use = known.get(lease.lease_id)
        if use is None:
            leases.append(lease)
            continue
        if lease.day in days:
            days[lease.day] = max(0, days[lease.day] + use.requests - lease.requests)
        sent_by = min(use.sent_by, lease.sent_by)
        change = {"requests": use.requests, "tokens": use.tokens, "sent_by": sent_by, "open": False}
        leases.append(lease.model_copy(update=change))
    return ledger.model_copy(update={"days": days, "leases": tuple(leases)})


def with_refusal(
    ledger: Ledger, now: float, reserved_at: float, per_day: bool, retry_after_s: float | None
) -> Ledger:
    """What everybody shall do after the server refused a request.

    For a limit a minute nobody sends for `retry_after_s` (a whole window if the server doesn't say),
    and the limits a minute shrink; once for all requests that were under way together, as more
    refusals of one burst say nothing new. For the limit a day, the day in which the request was
    reserved is spent.
    """
    if per_day:
        day = pacific_day(reserved_at)
        return ledger.model_copy(update={"spent_day": max(day, ledger.spent_day or day)})
    held_until = now + (WINDOW_S if retry_after_s is None else max(0.0, retry_after_s))
    change: dict[str, object] = {}
    if held_until > ledger.held_until:
        change |= {"held_from": now, "held_until": held_until}
    if reserved_at > ledger.shrunk_at:
        change |= {"shrunk_at": now, "share": max(SMALLEST_SHARE, share_at(ledger, now) * SHRINK)}
    return ledger.model_copy(update=change)
