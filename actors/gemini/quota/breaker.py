"""What failures and refusals in a row mean for all requests of a model, as pure functions of the ledger.

After two failures in a row, or two refusals, the breaker is open: one request at a time finds out whether the
server answers again, and the pauses between these requests grow. The first answer closes it. The idea is that
of the circuit breaker (M. Nygard, Release It!, 2007); the existing libraries keep its state in one process.
"""

from __future__ import annotations

from actors.gemini.quota.ledger import Breaker, Ledger, pacific_day

LONGEST_WAIT_S = 600.0
"""A longer wait counts as the end of the day. Servers have been seen to name 18 hours without saying that the
limit per day is meant."""

LASTING_S = 1800.0
"""After failures for this time, a run should end instead of trying again."""

_FORGOTTEN_AFTER_S = 6 * 3600.0
"""Failures that are older say nothing about the present."""

_OPENS_AT = 2
_FIRST_WAIT_S = 2.0
_SECOND_WAIT_S = 8.0
_FAILURE_GROWTH = 3.0
"""Pauses after failures are 2, 8, 24, 72, 216 s and so on. With six requests in flight, an outage of ten
minutes then costs ten requests; pauses that double would cost twelve."""

_REFUSAL_GROWTH = 2.0
"""Pauses after refusals without advice double. The tenth would be longer than `LONGEST_WAIT_S`."""

_SMALLEST_PACE = 1 / 16
_SLOWED = 0.75
_RECOVERY = 1 / 20
"""A refusal without advice lowers the limits per minute by a quarter, and each answer restores a twentieth.
If a simulated server refuses one request in ten at random, 440 of 660 are answered; with halves instead of
quarters, 222 are."""

PROBE_POLL_S = 10.0
"""Longest time until a holder asks again whether another holder's probe was answered."""


def is_open(breaker: Breaker) -> bool:
    """Return whether only one request at a time may be sent."""
    return breaker.failures >= _OPENS_AT or breaker.refusals >= _OPENS_AT


def with_failure(
    ledger: Ledger, now: float, reserved_at: float, longest_wait_s: float, advised_s: float | None
) -> Ledger:
    """Return the ledger after a request failed for a reason that may be temporary.

    Args:
        ledger: Ledger as returned by `rules.current`.
        now: Current time in seconds since the epoch.
        reserved_at: When the failed request was reserved.
        longest_wait_s: Longest pause before the next request.
        advised_s: Pause that the server asked for, or None.
    """
    before = ledger.breaker
    together = before.failures > 0 and reserved_at <= before.at
    failures = max(before.failures, _OPENS_AT) if together else before.failures + 1
    wait_s = _FIRST_WAIT_S
    if failures >= _OPENS_AT:
        # The exponent is bounded because a float overflows after some hundred failures.
        wait_s = _SECOND_WAIT_S * _FAILURE_GROWTH ** min(failures - _OPENS_AT, 20)
    wait_s = max(min(wait_s, longest_wait_s), min(advised_s or 0.0, LONGEST_WAIT_S))
    change = {"failures": failures, "since": before.since or now, "at": now, "probe_until": 0.0}
    return _held(ledger, now, wait_s).model_copy(update={"breaker": before.model_copy(update=change)})


def with_refusal_in_a_row(ledger: Ledger, now: float, reserved_at: float, advised_s: float | None) -> Ledger:
    """Return the ledger after a refusal (429) for a limit per minute, with arguments as in `with_failure`."""
    before = ledger.breaker
    together = before.refusals > 0 and reserved_at <= before.at
    refusals = before.refusals if together else before.refusals + 1
    wait_s = _FIRST_WAIT_S * _REFUSAL_GROWTH ** min(refusals - 1, 20)
    change: dict[str, object] = {"refusals": refusals, "at": now, "probe_until": 0.0}
    if advised_s is None and not together:
        change["pace"] = max(_SMALLEST_PACE, before.pace * _SLOWED)
    ledger = ledger.model_copy(update={"breaker": before.model_copy(update=change)})
    if max(wait_s, advised_s or 0.0) > LONGEST_WAIT_S:
        return with_spent_day(ledger, reserved_at)
    return _held(ledger, now, max(wait_s, advised_s or 0.0))


def with_answers(ledger: Ledger, count: int) -> Ledger:
    """Return the ledger after so many requests were answered."""
    if not count or ledger.breaker == Breaker():
        return ledger
    pace = min(1.0, ledger.breaker.pace + _RECOVERY * count)
    return ledger.model_copy(update={"breaker": Breaker(pace=pace)})


def with_probe(ledger: Ledger, until: float) -> Ledger:
    """Return the ledger with a request in flight whose answer is awaited, if the breaker is open."""
    if not is_open(ledger.breaker):
        return ledger
    return ledger.model_copy(update={"breaker": ledger.breaker.model_copy(update={"probe_until": until})})


def with_spent_day(ledger: Ledger, reserved_at: float) -> Ledger:
    """Return the ledger after the server declared the day spent on which a request was reserved."""
    day = pacific_day(reserved_at)
    return ledger.model_copy(update={"spent_day": max(day, ledger.spent_day or day)})


def without_advice(ledger: Ledger) -> Ledger:
    """Return the ledger without what the server said: a spent day, pauses, and lowered limits."""
    fresh = Ledger()
    names = ("spent_day", "held_from", "held_until", "shrunk_at", "share", "breaker")
    return ledger.model_copy(update={name: getattr(fresh, name) for name in names})


def current_breaker(breaker: Breaker, now: float, margin_s: float) -> Breaker:
    """Return the breaker without what is outdated, or was written by a machine with its clock ahead."""
    if now - _FORGOTTEN_AFTER_S < breaker.at <= now + margin_s:
        return breaker
    return Breaker(pace=breaker.pace)


def _held(ledger: Ledger, now: float, wait_s: float) -> Ledger:
    if now + wait_s <= ledger.held_until:
        return ledger
    return ledger.model_copy(update={"held_from": now, "held_until": now + wait_s})
