"""What one holder of a quota has in hand: its clock, its lease, the requests handed out of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import Protocol

from actors.gemini.quota.ledger import Lease
from actors.gemini.quota.rules import ARRIVAL_MARGIN_S, LeaseUse


class Clock(Protocol):
    """Where the time comes from; tests bring their own."""

    def now(self) -> float:
        """Seconds since the epoch. May be set back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """This machine's clock."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One request that may be sent, and is counted as sent.

    Attributes:
        lease_id: The lease in the ledger that counts it.
        number: Which request of the lease.
        reserved_at: Seconds since the epoch.
        tokens: Its input tokens, as estimated.
    """

    lease_id: str
    number: int
    reserved_at: float
    tokens: int

    @property
    def send_by(self) -> float:
        """When to begin sending at the latest; later, `release` it and reserve again.

        It leaves half of the margin of the windows for the way to the server.
        """
        return self.reserved_at + ARRIVAL_MARGIN_S / 2


@dataclass(slots=True)
class HeldLease:
    """A lease of this holder, and what became of it.

    `tokens` maps the number of each request handed out to its input tokens, `counted_tokens` is what
    the ledger has for all of them together.
    """

    lease: Lease
    granted_at: float
    last_sent_at: float
    counted_tokens: int
    tokens: dict[int, int] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def hand_out(self, tokens: int, now: float) -> Reservation | None:
        """The next request of the lease, or None if it has none left that would be in time."""
        in_time = self.granted_at <= now <= self.lease.sent_by
        fits = self.spent_tokens + tokens <= self.lease.tokens and len(self.tokens) < self.lease.requests
        if not (in_time and fits):
            return None
        reservation = Reservation(self.lease.lease_id, next(self.numbers), now, tokens)
        self.tokens[reservation.number] = tokens
        self.last_sent_at = now
        return reservation

    @property
    def spent_tokens(self) -> int:
        """Input tokens of all requests handed out, as far as they are known."""
        return sum(self.tokens.values())

    def use(self) -> LeaseUse:
        """What to tell the ledger."""
        return LeaseUse(self.lease.lease_id, len(self.tokens), self.spent_tokens, self.last_sent_at)
