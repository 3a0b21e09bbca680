"""What a run spends is in the ledger, so neither a restart nor another job forgets it."""

from __future__ import annotations

import asyncio

from actors.gemini.quota.ledger import RunSpend
from actors.gemini.quota.quota import NotNow, Quota, QuotaLimits
from actors.gemini.quota.spend import RequestCost
from actors.storage.object_store import ObjectStore
from tests.support.quota_simulation import SimulatedClock, place

LIMITS = QuotaLimits(1000, None, None)
CENT = 1 / 64
"""An amount of which sums are exact."""
COST = RequestCost(expected_usd=CENT, most_usd=4 * CENT)
OUT = "s3://bucket/out"


async def begun(folder: object, clock: SimulatedClock, run_id: str, output: str = OUT) -> Quota:
    holder = Quota(place(ObjectStore(str(folder))), LIMITS, clock=clock)
    await holder.begin_run(run_id, output)
    return holder


async def spend_until_refused(holder: Quota, budget_usd: float, usd: float) -> int:
    """Send requests that cost `usd` each, one after the other, and return their number."""
    count = 0
    while True:
        granted = await holder.reserve(1, COST, budget_usd)
        if isinstance(granted, NotNow):
            assert granted.reason == "budget"
            return count
        count += 1
        await holder.settle(granted, 1, usd)


def test_a_run_exceeds_its_budget_by_less_than_one_request(tmp_path):
    async def run() -> RunSpend:
        holder = await begun(tmp_path, SimulatedClock(), "a")
        assert await spend_until_refused(holder, 10 * CENT, 1.25 * CENT) == 8
        return await holder.end_run()

    spent = asyncio.run(run())
    assert round(spent.counted_usd, 6) == 8 * 1.25 * CENT
    assert round(spent.expected_usd, 6) == 8 * CENT
    assert round(spent.unknown_usd, 6) == 0


def test_a_budget_that_is_far_away_needs_few_writes_and_is_kept(tmp_path):
    class Counting(ObjectStore):
        writes = 0

        def replace(self, path: str, content: bytes, etag: str) -> str:
            Counting.writes += 1
            return super().replace(path, content, etag)

    async def run() -> int:
        holder = Quota(place(Counting(str(tmp_path))), LIMITS, clock=SimulatedClock())
        await holder.begin_run("a", OUT)
        # Requests that cost all that they may.
        count = await spend_until_refused(holder, 900 * 4 * CENT, 4 * CENT)
        assert (await holder.end_run()).counted_usd == 900 * 4 * CENT
        return count

    assert asyncio.run(run()) == 900
    assert Counting.writes <= 900 / 2


def test_a_request_that_may_cost_more_than_its_lease_counts_gets_another_lease(tmp_path):
    async def run() -> RunSpend:
        holder = await begun(tmp_path, SimulatedClock(), "a")
        for _ in range(31):
            assert not isinstance(await holder.reserve(1, COST, 1000.0), NotNow)
        large = RequestCost(10 * CENT, 400 * CENT)
        assert not isinstance(await holder.reserve(1, large, 1000.0), NotNow)
        return await holder.end_run()

    assert asyncio.run(run()).unknown_usd == (31 * 4 + 400) * CENT


def test_requests_in_flight_are_counted_at_the_most_they_may_cost(tmp_path):
    async def run() -> None:
        holder = await begun(tmp_path, SimulatedClock(), "a")
        flying = [await holder.reserve(1, COST, 10 * CENT) for _ in range(3)]
        refused = await holder.reserve(1, COST, 10 * CENT)
        assert isinstance(refused, NotNow)
        assert refused.reason == "budget_in_flight"
        for reservation in flying:
            assert not isinstance(reservation, NotNow)
            await holder.settle(reservation, 1, CENT)
        assert not isinstance(await holder.reserve(1, COST, 10 * CENT), NotNow)

    asyncio.run(run())


def test_a_run_that_was_killed_is_continued_with_what_it_has_spent(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        first = await begun(tmp_path, clock, "first")
        await spend_until_refused(first, 5 * CENT, CENT)
        await first.reserve(1, COST, 1.0)
        # The request in flight at the kill counts at the most that it may cost.
        second = await begun(tmp_path, clock, "second")
        assert second.run_id == "first"
        assert await spend_until_refused(second, 10 * CENT, CENT) == 1
        await second.end_run()
        third = await begun(tmp_path, clock, "third")
        assert third.run_id == "third"
        assert await spend_until_refused(third, 10 * CENT, CENT) == 10

    asyncio.run(run())


def test_two_jobs_on_one_output_share_its_budget_and_outputs_have_their_own(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        one, two = [await begun(tmp_path, clock, name) for name in ("one", "two")]
        other = await begun(tmp_path, clock, "other", "s3://bucket/other")
        assert await spend_until_refused(one, 5 * CENT, CENT) == 5
        assert await spend_until_refused(two, 10 * CENT, CENT) == 5
        assert await spend_until_refused(other, 10 * CENT, CENT) == 10

    asyncio.run(run())


def test_a_run_that_was_interrupted_long_ago_is_not_continued(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        await begun(tmp_path, clock, "old")
        clock.time += 8 * 86_400
        assert (await begun(tmp_path, clock, "new")).run_id == "new"

    asyncio.run(run())


def test_what_failed_costs_nothing_unless_it_may_be_billed(tmp_path):
    async def run() -> list[float]:
        clock = SimulatedClock()
        holder, spent = await begun(tmp_path, clock, "a"), []
        for billed in (False, True):
            granted = await holder.reserve(1, COST)
            assert not isinstance(granted, NotNow)
            await holder.failed(granted, may_be_billed=billed)
            spent.append((await holder.end_run()).spent_usd)
            clock.time += 60
        refused = await holder.reserve(1, COST)
        assert not isinstance(refused, NotNow)
        await holder.refused(refused, per_day=False, retry_after_s=1)
        spent.append((await holder.end_run()).spent_usd)
        clock.time += 60
        unsent = await holder.reserve(1, COST)
        assert not isinstance(unsent, NotNow)
        await holder.release(unsent)
        await holder.release(unsent)
        return [*spent, (await holder.end_run()).spent_usd]

    assert [round(usd, 6) for usd in asyncio.run(run())] == [0, CENT, CENT, CENT]


def test_leases_of_several_requests_count_what_was_sent(tmp_path):
    async def run() -> RunSpend:
        limits = QuotaLimits(1000, None, 10_000)
        holder = Quota(place(ObjectStore(str(tmp_path))), limits, clock=SimulatedClock())
        await holder.begin_run("a", OUT)
        for number in range(50):
            granted = await holder.reserve(1, RequestCost(0.01 * (1 + number % 2), 0.04))
            assert not isinstance(granted, NotNow)
            await holder.settle(granted, 1, 0.02)
        return await holder.end_run()

    spent = asyncio.run(run())
    assert round(spent.counted_usd, 6) == 1.0
    assert round(spent.expected_usd, 6) == 0.75
    assert round(spent.unknown_usd, 6) == 0
