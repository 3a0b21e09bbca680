"""Over simulated days, any number of holders never exceed the quota and hardly waste any of it."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import PreconditionError
from actors.gemini.quota.quota import NotNow, Quota, QuotaLimits, Reservation
from actors.gemini.quota.rules import largest_lease
from actors.storage.object_store import ObjectStore
from tests.support.quota_simulation import (
    SMALL,
    SimulatedClock,
    Simulation,
    StoppedClock,
    in_memory,
    place,
    quota,
    take,
)

SPRING, AUTUMN = date(2026, 3, 8), date(2026, 11, 1)
"""The days on which the clocks change."""


def around(change: date, hour: int) -> tuple[str, str, list[date]]:
    """Return the start and end of a period around a change of the clocks, and the full days in it.

    The period begins at the given hour (UTC) of the day before the change and ends two days after it.
    """
    start = f"{change - timedelta(days=1)}T{hour:02d}:00:00+00:00"
    days = [change, change + timedelta(days=1)]
    return start, f"{change + timedelta(days=2)}T09:00:00+00:00", days


def check_limits(simulation: Simulation) -> None:
    limits, server = simulation.limits, simulation.server
    requests, tokens = server.most_in_a_minute()
    assert requests <= limits.requests_per_minute
    assert tokens <= limits.tokens_per_minute
    assert max(server.by_day().values()) <= limits.requests_per_day


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    change=st.sampled_from([SPRING, AUTUMN]),
    hour=st.integers(9, 23),
    holders=st.integers(1, 4),
    in_flight=st.integers(1, 4),
    per_minute=st.integers(1, 60),
    per_day=st.integers(1, 150),
    tokens_per_minute=st.integers(400, 5000),
    kill_rate=st.sampled_from([0.0, 0.02, 0.2]),
)
@pytest.mark.slow
def test_no_window_and_no_pacific_day_exceeds_its_limit(
    seed, change, hour, holders, in_flight, per_minute, per_day, tokens_per_minute, kill_rate
):
    start, end, _ = around(change, hour)
    limits = QuotaLimits(per_minute, tokens_per_minute, per_day)
    simulation = Simulation(
        in_memory(), limits, seed, start, holders, kill_rate, in_flight=in_flight, tokens=(1, 400)
    )
    asyncio.run(simulation.run(end))
    check_limits(simulation)


@pytest.mark.long
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32), holders=st.integers(1, 3), kill_rate=st.sampled_from([0.0, 0.01]))
@pytest.mark.slow
def test_leases_of_large_quotas_exceed_no_limit_either(seed, holders, kill_rate):
    limits = QuotaLimits(200, 60_000, 1000)
    assert largest_lease(limits) == 2
    start, end = "2026-03-08T07:30:00+00:00", "2026-03-08T08:20:00+00:00"
    simulation = Simulation(
        in_memory(), limits, seed, start, holders, kill_rate, 1.0, in_flight=3, tokens=(1, 400)
    )
    asyncio.run(simulation.run(end))
    check_limits(simulation)
    assert simulation.server.by_day()[date(2026, 3, 7)] >= 0.95 * 1000 - 2 * simulation.kills


@pytest.mark.parametrize("change", [SPRING, AUTUMN])
@pytest.mark.parametrize("holders", [1, 2])
def test_the_day_is_used_to_95_percent_though_holders_are_killed(tmp_path, change, holders):
    start, end, days = around(change, 20)
    simulation = Simulation(str(tmp_path), SMALL, 7, start, holders, kill_rate=0.02, in_flight=2)
    asyncio.run(simulation.run(end))
    check_limits(simulation)
    assert simulation.kills >= 2
    spent = simulation.server.by_day()
    assert [day for day in days if spent[day] < 0.95 * SMALL.requests_per_day] == []


def test_the_quota_is_kept_on_s3_too(bucket):
    start, end, days = around(SPRING, 23)
    simulation = Simulation(bucket, SMALL, 3, start, holders=2, kill_rate=0.02, in_flight=2)
    asyncio.run(simulation.run(end))
    check_limits(simulation)
    spent = simulation.server.by_day()
    assert [day for day in days if spent[day] < 0.95 * SMALL.requests_per_day] == []


def test_a_minute_is_used_but_for_the_margin():
    limits = QuotaLimits(10, 250_000, 10_000)
    simulation = Simulation(in_memory(), limits, 1, "2026-06-10T12:00:00-07:00", in_flight=10)
    asyncio.run(simulation.run("2026-06-10T13:02:00-07:00"))
    # The simulation lasts for 60 windows of 62 s.
    assert len(simulation.server.arrivals) >= 0.99 * 60 * 10


@pytest.mark.parametrize("limits", [QuotaLimits(100_000, 10**9, 100), QuotaLimits(100_000, 10**9, 1500)])
def test_holders_that_write_at_once_spend_the_day_and_no_more(tmp_path, limits):
    assert asyncio.run(race(str(tmp_path), limits, 6)) == (limits.requests_per_day, 0)


def test_holders_that_write_to_s3_at_once_spend_the_day_and_no_more(bucket):
    assert asyncio.run(race(bucket, QuotaLimits(1000, 10**9, 60), 4)) == (60, 0)


async def race(uri: str, limits: QuotaLimits, count: int) -> tuple[int, int]:
    """Let `count` holders reserve until none gets more.

    Returns:
        The number of requests granted to all holders, and the number left for the day.
    """
    clock = StoppedClock()
    holders = [quota(uri, clock, limits) for _ in range(count)]
    granted = 0
    while True:
        taken = await asyncio.gather(*(until_spent(holder) for holder in holders))
        await asyncio.gather(*(holder.return_unused() for holder in holders))
        granted += sum(taken)
        if not any(taken):
            return granted, (await holders[0].status()).left_today


async def until_spent(holder: Quota) -> int:
    taken = 0
    while True:
        granted = await holder.reserve(1)
        if isinstance(granted, Reservation):
            taken += 1
        elif granted.reason == "per_day":
            return taken


def test_calls_of_one_holder_at_once_share_its_quota(tmp_path):
    async def run() -> list[Reservation | NotNow]:
        holder = quota(str(tmp_path), SimulatedClock())
        return await asyncio.gather(*(holder.reserve(100) for _ in range(15)))

    granted = asyncio.run(run())
    assert sum(isinstance(one, Reservation) for one in granted) == 10
    assert {one.reason for one in granted if isinstance(one, NotNow)} == {"per_minute"}


def test_a_writer_that_never_wins_says_so(tmp_path):
    clock = SimulatedClock()
    other = quota(str(tmp_path), clock, QuotaLimits(1000, 10**9, 900))

    class Busy(ObjectStore):
        def replace(self, path: str, content: bytes, etag: str) -> str:
            asyncio.run(take(other))
            return super().replace(path, content, etag)

    async def run() -> None:
        await take(other)
        busy = Quota(place(Busy(str(tmp_path))), other.limits, clock=SimulatedClock())
        with pytest.raises(PreconditionError, match="fewer jobs"):
            await busy.reserve(1)

    asyncio.run(run())
