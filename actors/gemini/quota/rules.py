"""The rules of a quota, as pure functions of a ledger, the limits and a time.

A ledger written by a machine whose clock is ahead contains times in the future. The recorded events have
happened nonetheless, so they count as if they had happened now. Nothing is counted too low, and nothing
counts for longer than a window or a day. The same applies after this machine's clock is set back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from actors.gemini.quota.breaker import (
    LONGEST_WAIT_S,
    PROBE_POLL_S,
    current_breaker,
    is_open,
    with_refusal_in_a_row,
    with_spent_day,
)
from actors.gemini.quota.ledger import Lease, Ledger, pacific_day, reset_of

WINDOW_S = 60.0
"""Length of the window of the limits per minute, by the server's clock."""

ARRIVAL_MARGIN_S = 2.0
"""Maximum time between handing out a request and its arrival at the server. The server's window begins
with the arrival, so the window here is longer by this margin, which costs 3% of the rate at 10 requests per
minute. The margin also covers clocks of different machines that differ by less."""

LEASE_S = 3.0
"""How long the requests of a lease may be handed out. It is a twentieth of the window, so a lease that is
used slowly costs at most a twentieth of the rate. Within this time, all holders learn of a refusal that one
of them received."""

RESET_MARGIN_S = 30.0
"""Nothing is sent during this time after midnight. If the server's day began a little later than here, the
server would refuse the request, and a refusal for the day holds until the next midnight."""

SHRINK = 0.5
"""Factor by which a refusal lowers the limits per minute. TCP also halves its rate (RFC 5681). Decreasing
by a factor and increasing by steps lets holders that share a limit converge (Chiu and Jain, 1989)."""

RECOVERY_PER_S = 0.05 / 60
"""Share of the configured limits that is restored per second: a twentieth per minute. The full limits are
back ten minutes after a halving, and a limit that is set too high causes one refusal every few minutes
instead of one every minute."""

SMALLEST_SHARE = 1 / 16
"""The limits never shrink below this share, which four refusals in a row reach, nor below one request per
minute."""

_OPEN_KEPT_S = 3600.0
"""How long a lease is kept after it has left the window, if its holder may still return a part of it."""


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """The configured limits of a project for one model.

    Attributes:
        requests_per_minute: Maximum requests per minute, at least 1.
        tokens_per_minute: Maximum input tokens per minute, at least 1, or None for no limit.
        requests_per_day: Maximum requests per day in Pacific time, at least 1, or None for no limit.
    """

    requests_per_minute: int
    tokens_per_minute: int | None
    requests_per_day: int | None


@dataclass(frozen=True, slots=True)
class NotNow:
    """The answer for a request that may not be sent yet.

    Attributes:
        until: When to ask again, in seconds since the epoch. The request may be denied again then, since
            other holders may be faster.
        reason: `per_day` means that the day's quota is spent; `until` is then after the reset.
            `day_change` is the time around midnight, when it is uncertain for which day a request
            counts. `per_minute` and `tokens_per_minute` name the limit that is reached; `per_minute` also
            applies while the server has told Shopframe to wait. `unavailable` applies while the server fails.
            `budget` means that the run has reached its cost limit, and `budget_in_flight` that it may have,
            depending on the cost of requests in flight. All waits except `per_day` and `budget` are short.
    """

    until: float
    reason: Literal[
        "per_minute",
        "tokens_per_minute",
        "per_day",
        "day_change",
        "unavailable",
        "budget",
        "budget_in_flight",
    ]


@dataclass(frozen=True, slots=True)
class LeaseUse:
    """The use of a lease as far as its holder knows it.

    All values are absolute, so a use can be applied twice without harm.

    Attributes:
        lease_id: Id of the lease.
        requests: Number of requests handed out. The rest of the lease is returned.
        tokens: Total input tokens of these requests, corrected for those that have been answered.
        sent_by: When the last of these requests was handed out.
    """

    lease_id: str
    requests: int
    tokens: int
    sent_by: float


def leaves_at(lease: Lease) -> float:
    """Return the time from which no request of the lease can be in the server's window."""
    return lease.sent_by + WINDOW_S + ARRIVAL_MARGIN_S


def is_ahead(ledger: Ledger, now: float) -> bool:
    """Return whether the clock of the ledger's writer is ahead by more than `ARRIVAL_MARGIN_S`."""
    today = pacific_day(now)
    if any(day > today for day in ledger.days) or (ledger.spent_day is not None and ledger.spent_day > today):
        return True
    latest = max(
        [
            ledger.held_from,
            ledger.shrunk_at,
            ledger.breaker.at,
            *(lease.sent_by - LEASE_S for lease in ledger.leases),
        ]
    )
    return latest > now + ARRIVAL_MARGIN_S


def current(ledger: Ledger, now: float) -> Ledger:
    """Return the ledger without outdated entries and with times in the future moved to the present."""
    today = pacific_day(now)
    days = {day: spent for day, spent in ledger.days.items() if today - timedelta(days=1) <= day < today}
    since_midnight = sum(spent for day, spent in ledger.days.items() if day >= today)
    if since_midnight:
        days[today] = since_midnight
    leases = [_not_ahead(lease, now, today) for lease in ledger.leases]
    change: dict[str, object] = {
        "days": days,
        "leases": tuple(lease for lease in leases if _matters(lease, now)),
        "breaker": current_breaker(ledger.breaker, now, ARRIVAL_MARGIN_S),
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
    """Return the share of the configured limits per minute that is in force, above 0 and at most 1."""
    return _recovered(ledger, now) * ledger.breaker.pace


def _recovered(ledger: Ledger, now: float) -> float:
    return min(1.0, ledger.share + RECOVERY_PER_S * max(0.0, now - ledger.shrunk_at))


def limit_at(ledger: Ledger, limit: int, now: float) -> int:
    """Return the value in force of a limit per minute, at least 1."""
    # Rounding errors can leave a recovered share slightly below 1, which would turn 10 requests into 9.
    return max(1, int(limit * share_at(ledger, now) + 1e-6))


def largest_lease(limits: QuotaLimits) -> int:
    """Return the maximum number of requests in one lease, at least 1.

    All requests of a lease leave the window as late as the last one. At a steady rate, a hundredth of the
    requests per minute is sent within 0.6 s, which costs a hundredth of the rate. A holder that is killed
    wastes the unused part of its lease, so a lease also has at most 1/500 of the requests per day. Below
    1,000 requests per day, each request has its own lease and a kill wastes only the requests in flight.
    """
    at_most = limits.requests_per_minute // 100
    if limits.requests_per_day is not None:
        at_most = min(at_most, limits.requests_per_day // 500)
    return max(1, at_most)


def grant(ledger: Ledger, limits: QuotaLimits, now: float, tokens: int, wanted: int) -> Lease | NotNow:
    """Grant a lease of at most `wanted` requests with `tokens` input tokens each, if the limits allow.

    Args:
        ledger: Ledger as returned by `current`.
        limits: The configured limits.
        now: Current time in seconds since the epoch.
        tokens: Input tokens of each request, at least 1 and at most `limits.tokens_per_minute`.
        wanted: Maximum number of requests, at least 1.

    Returns:
        A lease of at least one request, which the caller counts with `with_lease`, or a `NotNow` that says
        when to ask again and why.
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
        return NotNow(ledger.held_until, "unavailable" if ledger.breaker.failures else "per_minute")
    if is_open(ledger.breaker):
        if now < ledger.breaker.probe_until:
            return NotNow(min(ledger.breaker.probe_until, now + PROBE_POLL_S), "unavailable")
        wanted = 1
    counted = in_window(ledger, now)
    free = limit_at(ledger, limits.requests_per_minute, now) - sum(lease.requests for lease in counted)
    if free <= 0:
        return NotNow(_room_at(counted, 1 - free, lambda lease: lease.requests), "per_minute")
    requests = min(wanted, free, wanted if left is None else left)
    if limits.tokens_per_minute is not None:
        counting = [lease for lease in counted if lease.tokens]
        in_force = limit_at(ledger, limits.tokens_per_minute, now)
        free_tokens = in_force - sum(lease.tokens for lease in counting)
        # A request above the lowered limit but within the configured one is granted when nothing else is
        # in the window. Otherwise it would have to wait until the limit recovers.
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
    """Return the leases that count towards the limits per minute."""
    return [lease for lease in ledger.leases if leaves_at(lease) > now]


def left_today(ledger: Ledger, limits: QuotaLimits, today: date) -> int | None:
    """Return the number of requests that may still be sent today, or None if there is no limit."""
    if ledger.spent_day == today:
        return 0
    if limits.requests_per_day is None:
        return None
    return max(0, limits.requests_per_day - ledger.days.get(today, 0))


def _room_at(leases: Sequence[Lease], missing: int, amount: Callable[[Lease], int]) -> float:
    """Return when the missing amount will have left the window, or at the latest when it is empty."""
    until = 0.0
    for lease in sorted(leases, key=leaves_at):
        until = leaves_at(lease)
        missing -= amount(lease)
        if missing <= 0:
            break
    return until


def with_lease(ledger: Ledger, lease: Lease) -> Ledger:
    """Return the ledger with the lease counted."""
    days = {**ledger.days, lease.day: ledger.days.get(lease.day, 0) + lease.requests}
    return ledger.model_copy(update={"days": days, "leases": (*ledger.leases, lease)})


def with_use(ledger: Ledger, uses: Iterable[LeaseUse]) -> Ledger:
    """Return the ledger with its leases corrected to their use.

    The counts of leases that have already left the ledger aren't corrected.
    """
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
    """Return the ledger after the server refused a request, which affects all holders.

    After a refusal for a limit per minute, no holder sends for `retry_after_s`, and refusals in a row make
    the pause longer. If the server named a time, the limits per minute also shrink for some minutes. They
    shrink only once for all requests that were in flight together, because further refusals of the same burst
    add no information. After a refusal for the limit per day, or one that names a wait above ten minutes, the
    day on which the request was reserved counts as spent.
    """
    if per_day or (retry_after_s or 0.0) > LONGEST_WAIT_S:
        return with_spent_day(ledger, reserved_at)
    after = with_refusal_in_a_row(ledger, now, reserved_at, retry_after_s)
    if retry_after_s is None or reserved_at <= ledger.shrunk_at:
        return after
    share = max(SMALLEST_SHARE, _recovered(ledger, now) * SHRINK)
    return after.model_copy(update={"shrunk_at": now, "share": share})
