"""The state of one holder of a quota: its clock, its lease and the requests handed out from the lease."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Protocol

from actors.gemini.quota.ledger import Lease
from actors.gemini.quota.rules import ARRIVAL_MARGIN_S, LeaseUse
from actors.gemini.quota.spend import NO_COST, RequestCost


class Clock(Protocol):
    """Source of the time. Tests use their own."""

    def now(self) -> float:
        """Return the seconds since the epoch. The clock may be set back between calls."""

    async def sleep(self, seconds: float) -> None:
        """Wait for the given number of seconds."""


class SystemClock:
    """This machine's clock."""

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait for the given number of seconds."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One request that may be sent and is counted as sent.

    Attributes:
        lease_id: Id of the lease in the ledger that counts the request.
        number: Number of the request within the lease.
        reserved_at: When the request was reserved, in seconds since the epoch.
        tokens: Estimated input tokens of the request.
        cost: Cost of the request before it is sent.
    """

    lease_id: str
    number: int
    reserved_at: float
    tokens: int
    cost: RequestCost = NO_COST

    @property
    def send_by(self) -> float:
        """Latest time to start sending the request, in seconds since the epoch.

        After this time, call `release` and reserve again. Half of `ARRIVAL_MARGIN_S` is left for the
        request to reach the server.
        """
        return self.reserved_at + ARRIVAL_MARGIN_S / 2


@dataclass(slots=True)
class HeldLease:
    """A lease of this holder and the requests handed out from it.

    `tokens` maps the number of each request that was handed out to its input tokens. `counted_tokens` is
    the total that the ledger counts for the lease, and `cost` what it counts for each of its requests.
    `most_usd` is the most that the requests handed out may cost.
    """

    lease: Lease
    granted_at: float
    last_sent_at: float
    counted_tokens: int
    cost: RequestCost = NO_COST
    tokens: dict[int, int] = field(default_factory=dict)
    handed_out: int = 0
    most_usd: float = 0.0

    @property
    def left(self) -> int:
        """Number of requests that were not handed out. One that was released counts as handed out."""
        return self.lease.requests - self.handed_out

    def hand_out(self, tokens: int, cost: RequestCost, now: float) -> Reservation | None:
        """Hand out the next request, or return None if the lease has expired or has too little left."""
        in_time = self.granted_at <= now <= self.lease.sent_by
        fits = self.spent_tokens + tokens <= self.lease.tokens and len(self.tokens) < self.lease.requests
        # Rounding must not keep the last request of a lease from being handed out.
        is_paid = self.most_usd + cost.most_usd <= self.cost.most_usd * self.lease.requests * (1 + 1e-9)
        if not (in_time and fits and is_paid):
            return None
        reservation = Reservation(self.lease.lease_id, self.handed_out, now, tokens, cost)
        self.handed_out += 1
        self.most_usd += cost.most_usd
        self.tokens[reservation.number] = tokens
        self.last_sent_at = now
        return reservation

    @property
    def spent_tokens(self) -> int:
        """Total input tokens of the requests handed out: counted where known, otherwise estimated."""
        return sum(self.tokens.values())

    def use(self) -> LeaseUse:
        """Return the use of the lease, to be written to the ledger."""
        return LeaseUse(self.lease.lease_id, len(self.tokens), self.spent_tokens, self.last_sent_at)
