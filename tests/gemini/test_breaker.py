"""Failures and refusals in a row cost few requests, whoever sends them, and no wait is without an end."""

from __future__ import annotations

import asyncio

import pytest

from actors.gemini.quota.breaker import LONGEST_WAIT_S
from actors.gemini.quota.quota import NotNow, Patience, Quota, QuotaLimits, Reservation
from actors.storage.object_store import ObjectStore
from tests.support.quota_simulation import SimulatedClock, place, quota, refusal, take, take_all

LIMITS = QuotaLimits(60, None, 10_000)
A_DAY_S = 86_400


async def wait_and_take(holder: Quota, clock: SimulatedClock) -> tuple[Reservation, float]:
    """Wait as long as the quota says, and return the reservation and the time waited in seconds."""
    start = clock.time
    while isinstance(granted := await holder.reserve(1), NotNow):
        assert granted.reason in ("per_minute", "unavailable"), granted
        clock.time = granted.until
    return granted, clock.time - start


# --- refusals ---


def test_refusals_without_advice_wait_longer_each_time_and_then_end_the_day(tmp_path):
    async def run() -> list[float]:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, QuotaLimits(1000, None, 10_000))
        waits = []
        for _ in range(10):
            reservation, waited = await wait_and_take(holder, clock)
            waits.append(round(waited))
            await holder.refused(reservation, per_day=False)
        assert (await refusal(holder)).reason == "per_day"
        assert (await refusal(quota(str(tmp_path), clock, LIMITS))).reason == "per_day"
        assert (await holder.status()).spent_today == 10
        return waits

    assert asyncio.run(run()) == [0, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_advice_that_is_never_right_ends_the_day_too(tmp_path):
    async def run() -> int:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, LIMITS)
        for count in range(100):
            granted = await holder.reserve(1)
            while isinstance(granted, NotNow) and granted.reason != "per_day":
                clock.time = granted.until
                granted = await holder.reserve(1)
            if isinstance(granted, NotNow):
                return count
            await holder.refused(granted, per_day=False, retry_after_s=38)
        return 100

    assert asyncio.run(run()) == 10


@pytest.mark.parametrize(("advised_s", "ends"), [(LONGEST_WAIT_S, False), (601, True), (65_205, True)])
def test_a_wait_above_ten_minutes_is_the_end_of_the_day(tmp_path, advised_s, ends):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, LIMITS)
        await holder.refused(await take(holder), per_day=False, retry_after_s=advised_s)
        assert ((await refusal(holder)).reason == "per_day") is ends
        assert (await holder.status()).declared_spent is ends

    asyncio.run(run())


def test_refusals_without_advice_slow_down_and_each_answer_restores_a_twentieth(tmp_path):
    async def run() -> list[int]:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, LIMITS)
        seen = []
        for _ in range(5):
            reservation, _ = await wait_and_take(holder, clock)
            await holder.refused(reservation, per_day=False)
            seen.append((await holder.status()).requests_per_minute)
        clock.time += 600
        for _ in range(20):
            reservation, _ = await wait_and_take(holder, clock)
            await holder.settle(reservation, 1)
        await holder.return_unused()
        return [*seen, (await holder.status()).requests_per_minute]

    assert asyncio.run(run()) == [45, 33, 25, 18, 14, 60]


def test_a_burst_of_refusals_counts_once(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, LIMITS)
        burst = [await take(holder) for _ in range(6)]
        for reservation in burst:
            await holder.refused(reservation, per_day=False)
        assert (await refusal(holder)).until == clock.time + 2
        assert (await holder.status()).requests_per_minute == 45

    asyncio.run(run())


def test_a_tenth_of_refusals_leaves_most_of_the_quota(tmp_path):
    """With a pause of a whole window per refusal, 79 requests got through in these 11 minutes."""

    async def run() -> int:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, LIMITS)
        end, sent, answered = clock.time + 660, 0, 0
        while clock.time < end:
            reservation, _ = await wait_and_take(holder, clock)
            sent += 1
            clock.time += 0.3
            if sent % 10 == 0:
                await holder.refused(reservation, per_day=False)
            else:
                await holder.settle(reservation, 1)
                answered += 1
        return answered

    assert asyncio.run(run()) >= 400


# --- failures ---


def test_pauses_after_failures_grow_to_the_longest_wait(tmp_path):
    async def run() -> list[float]:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, LIMITS)
        waits = []
        for _ in range(8):
            reservation, waited = await wait_and_take(holder, clock)
            waits.append(round(waited))
            lasted = await holder.failed(reservation)
            assert lasted == sum(waits)
        return waits

    assert asyncio.run(run()) == [0, 2, 8, 24, 72, 216, 300, 300]


@pytest.mark.parametrize(("in_flight", "most"), [(1, 6), (6, 10)])
def test_an_outage_of_ten_minutes_costs_at_most_ten_requests_of_250(tmp_path, in_flight, most):
    async def run() -> int:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, QuotaLimits(10, None, 250))
        end = clock.time + 600
        flying = [await take(holder) for _ in range(in_flight)]
        while clock.time < end:
            for reservation in flying:
                await holder.failed(reservation)
            flying = []
            while len(flying) < in_flight and isinstance(granted := await holder.reserve(1), Reservation):
                flying.append(granted)
            if isinstance(granted, NotNow):
                clock.time = clock.time if flying else granted.until
        return (await holder.status()).spent_today - len(flying)

    assert asyncio.run(run()) <= most


def test_one_probe_at_a_time_whoever_sends_it_until_one_is_answered(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        one, two = (quota(str(tmp_path), clock, LIMITS) for _ in range(2))
        for _ in range(2):
            await one.failed((await wait_and_take(one, clock))[0])
        assert (await refusal(two)).reason == "unavailable"
        clock.time += 8
        probe = await take(two)
        for other in (one, two):
            waiting = await refusal(other)
            assert waiting.reason == "unavailable"
            assert waiting.until == clock.time + 10
        await two.settle(probe, 1)
        taken, _ = await take_all(two)
        assert len(taken) == 60 - 3
        assert (await refusal(one)).reason == "per_minute"

    asyncio.run(run())


def test_a_probe_of_a_killed_holder_is_forgotten_when_its_answer_is_too_late(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        store, patience = ObjectStore(str(tmp_path)), Patience(answer_s=120)
        one, two = (Quota(place(store), LIMITS, clock=clock, patience=patience) for _ in range(2))
        for _ in range(2):
            await one.failed((await wait_and_take(one, clock))[0])
        clock.time += 8
        await take(one)
        assert (await wait_and_take(two, clock))[1] == 120

    asyncio.run(run())


def test_one_failure_among_answers_costs_two_seconds(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, LIMITS)
        for _ in range(5):
            await holder.failed((await wait_and_take(holder, clock))[0])
            reservation, waited = await wait_and_take(holder, clock)
            assert waited == 2
            await holder.settle(reservation, 1)

    asyncio.run(run())


def test_a_server_that_asks_for_a_pause_gets_it_but_no_more_than_ten_minutes(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, LIMITS)
        await holder.failed(await take(holder), retry_after_s=20)
        assert (await refusal(holder)).until == clock.time + 20
        clock.time += 20
        await holder.failed(await take(holder), retry_after_s=A_DAY_S)
        assert (await refusal(holder)).until == clock.time + LONGEST_WAIT_S

    asyncio.run(run())


# --- reset ---


def test_a_reset_forgets_what_the_server_said_and_not_what_was_sent(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder, other = (quota(str(tmp_path), clock, LIMITS) for _ in range(2))
        await holder.refused(await take(holder), per_day=False, retry_after_s=60)
        clock.time += 60
        await holder.refused(await take(holder), per_day=True)
        assert (await refusal(other)).reason == "per_day"
        await quota(str(tmp_path), clock, LIMITS).reset()
        status = await other.status()
        assert (status.declared_spent, status.spent_today, status.requests_per_minute) == (False, 2, 60)
        await take(other)

    asyncio.run(run())
