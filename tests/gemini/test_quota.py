"""The quota tells one holder, or two that share it, what may be sent now."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import ConfigError
from actors.gemini.quota.quota import NotNow, Quota, QuotaLimits, Reservation
from actors.gemini.quota.rules import ARRIVAL_MARGIN_S, LEASE_S, RESET_MARGIN_S, WINDOW_S, largest_lease
from actors.storage.object_store import ObjectStore
from tests.support.quota_simulation import (
    LARGE,
    SMALL,
    SimulatedClock,
    in_memory,
    place,
    quota,
    refusal,
    take,
    take_all,
)

# --- limits ---


def test_a_spent_day_ends_at_midnight(tmp_path):
    async def run() -> None:
        clock = SimulatedClock("2026-11-01T12:00:00-08:00")
        holder = quota(str(tmp_path), clock, QuotaLimits(100, 10**6, 12))
        taken, refused = await take_all(holder)
        midnight = datetime.fromisoformat("2026-11-02T08:00:00+00:00")
        assert (len(taken), refused) == (12, NotNow(midnight.timestamp() + RESET_MARGIN_S, "per_day"))
        assert (await holder.status()).resets_at == midnight
        clock.time = refused.until
        assert len((await take_all(holder))[0]) == 12

    asyncio.run(run())


def test_tokens_are_corrected_by_what_the_server_counted(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder, other = (quota(str(tmp_path), clock, QuotaLimits(100, 1000, 900)) for _ in range(2))
        first = await take(holder, 900)
        assert (await refusal(holder, 200)).reason == "tokens_per_minute"
        await holder.settle(first, 500)
        await holder.settle(first, 500)
        second = await take(holder, 400)
        assert (await refusal(other, 101)).reason == "tokens_per_minute"
        await holder.settle(second, 600)
        assert (await holder.status()).window_tokens == 1100
        assert (await refusal(other, 1)).reason == "tokens_per_minute"

    asyncio.run(run())


def test_a_request_that_was_not_sent_is_given_back(tmp_path):
    async def run() -> None:
        holder = quota(str(tmp_path), SimulatedClock(), QuotaLimits(10, 1000, 10))
        taken, _ = await take_all(holder, 10)
        await holder.release(taken[0])
        await holder.release(taken[0])
        assert len((await take_all(holder, 10))[0]) == 1

    asyncio.run(run())


def test_what_one_holder_gives_back_another_can_use_at_once(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder, other = quota(str(tmp_path), clock), quota(str(tmp_path), clock)
        first = await take(holder)
        await take_all(other)
        await holder.release(first)
        await holder.return_unused()
        await take(other)

    asyncio.run(run())


def test_a_request_that_can_never_be_sent_is_refused_at_once(tmp_path):
    holder = quota(str(tmp_path), SimulatedClock())
    with pytest.raises(ConfigError, match=r"gemini\.tokens_per_minute=250000.*gemini\.persons_per_request"):
        asyncio.run(holder.reserve(250_001))
    with pytest.raises(ValueError, match="at least 1"):
        asyncio.run(holder.reserve(0))


def test_without_limits_of_tokens_and_days_only_the_minute_counts(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, QuotaLimits(30, None, None))
        taken, refused = await take_all(holder, 10**9)
        assert (len(taken), refused.reason) == (30, "per_minute")
        status = await holder.status()
        assert (status.left_today, status.tokens_per_minute, status.days_left(10**5)) == (None, None, 2)

    asyncio.run(run())


# --- leases ---


def test_large_quotas_need_few_writes_and_small_ones_waste_nothing(tmp_path):
    class Counting(ObjectStore):
        writes = 0

        def replace(self, path: str, content: bytes, etag: str) -> str:
            Counting.writes += 1
            return super().replace(path, content, etag)

    async def run() -> None:
        holder = Quota(place(Counting(str(tmp_path))), LARGE, clock=SimulatedClock())
        for _ in range(400):
            await take(holder)
        # The first leases have 1, 2, 4 and 8 requests; the others have 10.
        assert Counting.writes <= 43
        await holder.return_unused()
        assert (await holder.status()).spent_today == 400
        assert largest_lease(SMALL) == 1

    asyncio.run(run())


def test_the_rest_of_a_lease_is_returned_however_late(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, LARGE)
        for _ in range(33):
            await take(holder)
        assert (await holder.status()).spent_today > 33
        clock.time += 1800
        await take(holder)
        await holder.return_unused()
        assert (await holder.status()).spent_today == 34

    asyncio.run(run())


def test_a_lease_is_not_handed_out_after_its_time_or_beyond_its_tokens(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, QuotaLimits(1000, 100_000, 10_000))
        first = [await take(holder, 1000) for _ in range(32)]
        assert (await take(holder, 90_000 - 32_000)).lease_id != first[-1].lease_id
        assert (await holder.status()).window_tokens == 90_000
        late = await take(holder, 1)
        clock.time += LEASE_S + 0.1
        assert (await take(holder, 1)).lease_id != late.lease_id

    asyncio.run(run())


# --- the server's advice ---


def test_a_refusal_holds_everybody_and_halves_the_limits(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder, other = quota(str(tmp_path), clock), quota(str(tmp_path), clock)
        burst = [await take(holder) for _ in range(3)]
        await other.status()
        for reservation in burst:
            await holder.refused(reservation, per_day=False, retry_after_s=90)
        assert await refusal(other) == NotNow(clock.time + 90, "per_minute")
        status = await other.status()
        assert (status.requests_per_minute, status.tokens_per_minute) == (5, 125_000)
        assert status.held_until.timestamp() == clock.time + 90
        clock.time += 90
        assert len((await take_all(other))[0]) == 5

    asyncio.run(run())


def test_the_limits_come_back_a_twentieth_a_minute(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, QuotaLimits(20, 10**6, 10_000))
        await holder.refused(await take(holder), per_day=False, retry_after_s=1)
        seen = []
        for _ in range(12):
            seen.append((await holder.status()).requests_per_minute)
            clock.time += 60
        assert seen == [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 20]

    asyncio.run(run())


def test_a_refusal_for_the_day_ends_the_day_for_everybody(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder, other = quota(str(tmp_path), clock), quota(str(tmp_path), clock)
        reservation = await take(holder)
        await take(other)
        await holder.refused(reservation, per_day=True, retry_after_s=38)
        midnight = datetime.fromisoformat("2026-06-11T00:00:00-07:00").timestamp()
        for one in (holder, other, quota(str(tmp_path), clock)):
            assert await refusal(one) == NotNow(midnight + RESET_MARGIN_S, "per_day")
        status = await other.status()
        assert (status.declared_spent, status.left_today, status.spent_today) == (True, 0, 2)
        clock.time = midnight + RESET_MARGIN_S
        await take(other)
        assert (await other.status()).requests_per_minute == 10

    asyncio.run(run())


def test_a_late_refusal_for_yesterday_leaves_today_alone(tmp_path):
    async def run() -> None:
        clock = SimulatedClock("2026-06-10T23:59:50-07:00")
        holder = quota(str(tmp_path), clock)
        reservation = await take(holder)
        clock.time += 60
        await holder.refused(reservation, per_day=True)
        await take(holder)

    asyncio.run(run())


def test_others_learn_of_a_refusal_before_their_lease_ends(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder, other = quota(str(tmp_path), clock, LARGE), quota(str(tmp_path), clock, LARGE)
        for _ in range(40):
            await take(other)
        await holder.refused(await take(holder), per_day=False, retry_after_s=30)
        clock.time += LEASE_S + 0.01
        assert (await refusal(other)).reason == "per_minute"

    asyncio.run(run())


# --- clocks ---


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 20.0, 61.0]), st.sampled_from([0.0, 0.5, 30.0, 3600.0])),
        min_size=5,
        max_size=60,
    )
)
def test_a_clock_set_back_lets_nothing_more_through(steps):
    """Each step waits in true time, then sets the holder's clock back, then sends what it can."""

    async def run() -> list[float]:
        clock, behind, true_time, sent = SimulatedClock(), 0.0, 0.0, []
        start = clock.time
        holder = quota(in_memory(), clock, QuotaLimits(5, 10**6, 10_000))
        for wait, back in steps:
            true_time += wait
            behind += back
            clock.time = start + true_time - behind
            taken, _ = await take_all(holder)
            sent += [true_time] * len(taken)
        return sent

    sent = asyncio.run(run())
    assert len(sent) >= 5
    assert all(sum(at - 60 <= other <= at for other in sent) <= 5 for at in sent)


def test_after_a_clock_is_set_back_by_a_year_a_window_later_all_is_well(tmp_path, caplog):
    async def run() -> None:
        clock = SimulatedClock("2027-06-10T12:00:00-07:00")
        holder = quota(str(tmp_path), clock)
        await take_all(holder)
        await holder.refused(unsent_reservation(holder), per_day=False, retry_after_s=20)
        clock.time -= 365 * 86400
        behind = quota(str(tmp_path), clock)
        refused = await refusal(behind)
        assert refused.until <= clock.time + WINDOW_S + ARRIVAL_MARGIN_S + LEASE_S
        assert (await behind.status()).spent_today == 10
        clock.time += WINDOW_S + ARRIVAL_MARGIN_S + LEASE_S
        await take(behind)
        assert "clock ahead" in caplog.text
        clock.time += 86400
        assert (await behind.status()).left_today == 60

    asyncio.run(run())


def unsent_reservation(holder: Quota) -> Reservation:
    return Reservation("some", 0, holder.clock.now(), 1)


def test_a_lease_ends_when_the_clock_is_set_back(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock, LARGE)
        last = [await take(holder) for _ in range(33)][-1]
        assert (await take(holder)).lease_id == last.lease_id
        clock.time -= 3600
        assert (await take(holder)).lease_id != last.lease_id

    asyncio.run(run())


def test_what_was_spent_after_midnight_counts_when_the_clock_goes_back_before_it(tmp_path):
    async def run() -> None:
        clock = SimulatedClock("2026-06-11T00:01:00-07:00")
        holder = quota(str(tmp_path), clock, QuotaLimits(1000, 10**6, 20))
        await take_all(holder)
        clock.time -= 600
        assert (await refusal(holder)).reason == "per_day"

    asyncio.run(run())


def test_nothing_is_sent_in_the_moments_around_midnight(tmp_path):
    midnight = datetime.fromisoformat("2026-06-11T00:00:00-07:00").timestamp()

    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock)
        for moment in (
            midnight - ARRIVAL_MARGIN_S,
            midnight - 0.1,
            midnight,
            midnight + RESET_MARGIN_S - 0.1,
        ):
            clock.time = moment
            assert await refusal(holder) == NotNow(midnight + RESET_MARGIN_S, "day_change")
        clock.time = midnight + RESET_MARGIN_S
        await take(holder)

    asyncio.run(run())


# --- status ---


def test_status_says_what_is_spent_left_and_pending(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock)
        empty = await holder.status()
        assert (empty.spent_today, empty.left_today, empty.days_left(60), empty.days_left(61)) == (
            0,
            60,
            0,
            1,
        )
        assert not list(tmp_path.iterdir())
        for tokens in (100, 200):
            await take(holder, tokens)
        status = await holder.status()
        assert (status.spent_today, status.left_today) == (2, 58)
        assert (status.window_requests, status.window_tokens) == (2, 300)
        assert (status.requests_per_minute, status.tokens_per_minute, status.held_until) == (
            10,
            250_000,
            None,
        )
        assert [status.days_left(n) for n in (0, 58, 59, 118, 119)] == [0, 0, 1, 1, 2]
        clock.time += 70
        assert (await holder.status()).window_requests == 0

    asyncio.run(run())
