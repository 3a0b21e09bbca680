"""Simulate several holders of one quota, and the server that they send requests to, on a simulated clock."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo

from actors.gemini.quota.quota import LedgerPlace, NotNow, Quota, QuotaLimits, Reservation
from actors.gemini.quota.rules import ARRIVAL_MARGIN_S
from actors.storage.layout import quota_path
from actors.storage.object_store import ObjectStore

PACIFIC = ZoneInfo("America/Los_Angeles")
SMALL = QuotaLimits(10, 250_000, 60)
LARGE = QuotaLimits(1000, 1_000_000, 10_000)
PATH = quota_path("project", "model")


class SimulatedClock:
    """A clock that stands still unless `time` is set or `sleep` is called."""

    def __init__(self, start: str = "2026-06-10T12:00:00-07:00") -> None:
        self.time = datetime.fromisoformat(start).timestamp()

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class StoppedClock(SimulatedClock):
    """A clock that stands still while `sleep` waits in real time, so no lease ends while holders wait."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def in_memory() -> str:
    return f"memory://quota-{uuid.uuid4().hex}"


def quota(uri: str, clock: SimulatedClock, limits: QuotaLimits = SMALL) -> Quota:
    return Quota(place(ObjectStore(uri)), limits, clock=clock)


def place(store: ObjectStore) -> LedgerPlace:
    return LedgerPlace(store, PATH)


async def take(holder: Quota, tokens: int = 100) -> Reservation:
    granted = await holder.reserve(tokens)
    assert isinstance(granted, Reservation), granted
    return granted


async def refusal(holder: Quota, tokens: int = 100) -> NotNow:
    granted = await holder.reserve(tokens)
    assert isinstance(granted, NotNow), granted
    return granted


async def take_all(holder: Quota, tokens: int = 100) -> tuple[list[Reservation], NotNow]:
    """Make reservations until one is refused."""
    taken = []
    while isinstance(granted := await holder.reserve(tokens), Reservation):
        taken.append(granted)
    return taken, granted


@dataclass
class Server:
    """A server that counts arriving requests, independently of the quota under test."""

    arrivals: list[tuple[float, int]] = field(default_factory=list)

    def most_in_a_minute(self) -> tuple[int, int]:
        """Return the most requests and the most tokens in any 60 s, including both ends."""
        most = [0, 0]
        ordered = sorted(self.arrivals)
        first, tokens = 0, 0
        for index, (at, amount) in enumerate(ordered):
            tokens += amount
            while ordered[first][0] < at - 60:
                tokens -= ordered[first][1]
                first += 1
            most = [max(most[0], index - first + 1), max(most[1], tokens)]
        return most[0], most[1]

    def by_day(self) -> Counter[date]:
        return Counter(datetime.fromtimestamp(at, PACIFIC).date() for at, _ in self.arrivals)


@dataclass
class Simulation:
    """Several holders that never run out of work. Events happen one after the other.

    An answer takes up to `answer_s`; a request takes up to the margin to arrive. At each event, the holder
    is killed with a probability of `kill_rate`: it forgets everything and its answers are lost. In half of
    these cases, a request that was just reserved is never sent.
    """

    uri: str
    limits: QuotaLimits
    seed: int
    start: str
    holders: int = 1
    kill_rate: float = 0.0
    answer_s: float = 5.0
    in_flight: int = 1
    tokens: tuple[int, int] = (1, 1)
    kills: int = 0
    server: Server = field(default_factory=Server)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.clock = SimulatedClock(self.start)

    def new_holder(self) -> Quota:
        return quota(self.uri, self.clock, self.limits)

    async def run(self, until: str) -> None:
        end = datetime.fromisoformat(until).timestamp()
        quotas = [self.new_holder() for _ in range(self.holders)]
        flying: list[list[tuple[float, Reservation, int]]] = [[] for _ in quotas]
        order = itertools.count()
        events = [(self.clock.time, next(order), index) for index in range(self.holders)]
        while events:
            at, _, index = heapq.heappop(events)
            if at >= end:
                continue
            self.clock.time = max(self.clock.time, at)
            if self.random.random() < self.kill_rate:
                self.kills += 1
                if self.random.random() < 0.5:
                    await quotas[index].reserve(self.tokens[1])
                quotas[index], flying[index] = self.new_holder(), []
            again = await self._step(quotas[index], flying[index])
            heapq.heappush(events, (again, next(order), index))

    async def _step(self, quota: Quota, flying: list[tuple[float, Reservation, int]]) -> float:
        """Settle answered requests, send a request if possible, and return the time of the next event."""
        for answer in [a for a in flying if a[0] <= self.clock.time]:
            await quota.settle(answer[1], answer[2])
            flying.remove(answer)
        if len(flying) >= self.in_flight:
            return min(a[0] for a in flying)
        estimated = self.random.randint(*self.tokens)
        reservation = await quota.reserve(estimated)
        now = self.clock.time
        if isinstance(reservation, NotNow):
            assert reservation.until > now - 1e-3
            wakes = [reservation.until, *(a[0] for a in flying)]
            return max(now + 1e-3, min(wakes) + self.random.choice([0, 0, self.random.random()]))
        actual = self.random.randint(1, estimated)
        # An arrival just before the margin ends is the worst case, so it should be frequent.
        delay = self.random.choice(
            [0, ARRIVAL_MARGIN_S - 0.01, self.random.uniform(0, ARRIVAL_MARGIN_S - 0.01)]
        )
        self.server.arrivals.append((reservation.reserved_at + delay, actual))
        flying.append((now + self.random.uniform(0.01, self.answer_s), reservation, actual))
        return now + self.random.choice([0, self.random.uniform(0, self.answer_s)])
