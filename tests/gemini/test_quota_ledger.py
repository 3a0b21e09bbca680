"""Requests that a holder reserved stay counted after the holder is gone."""

from __future__ import annotations

import asyncio
import multiprocessing
from datetime import UTC, date, timedelta
from multiprocessing.connection import Connection

import pytest

from actors.errors import OutputError
from actors.gemini.quota.ledger import pacific_day, reset_of
from actors.gemini.quota.quota import Quota, QuotaLimits
from actors.gemini.quota.rules import ARRIVAL_MARGIN_S, LEASE_S, WINDOW_S, largest_lease
from actors.storage.object_store import ObjectStore
from tests.support.quota_simulation import (
    LARGE,
    PATH,
    SMALL,
    SimulatedClock,
    place,
    quota,
    refusal,
    take,
    take_all,
)


def reserve_forever(uri: str, told: Connection) -> None:
    async def run() -> None:
        holder = quota(uri, SimulatedClock(), QuotaLimits(100_000, 10**9, 900))
        while True:
            told.send((await take(holder, 7)).lease_id)

    asyncio.run(run())


def test_what_a_killed_process_reserved_stays_counted(tmp_path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=reserve_forever, args=(str(tmp_path), theirs))
    process.start()
    theirs.close()
    leases = [ours.recv() for _ in range(20)]
    process.kill()
    process.join()
    try:
        while True:
            leases.append(ours.recv())
    except EOFError:
        pass
    assert len(set(leases)) == len(leases)

    status = asyncio.run(quota(str(tmp_path), SimulatedClock(), QuotaLimits(100_000, 10**9, 900)).status())
    # One request may have been counted just before the process was killed, and not reported.
    assert status.spent_today - len(leases) in (0, 1)
    assert status.window_tokens == 7 * status.spent_today


def test_a_new_holder_goes_on_where_the_last_one_died(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        taken, _ = await take_all(quota(str(tmp_path), clock))
        assert len(taken) == 10
        again = quota(str(tmp_path), clock)
        refused = await refusal(again)
        assert refused.reason == "per_minute"
        # The dead holder could have handed out its requests until its leases ended.
        assert refused.until == pytest.approx(clock.time + LEASE_S + WINDOW_S + ARRIVAL_MARGIN_S, abs=LEASE_S)
        assert (await again.status()).spent_today == 10
        clock.time = refused.until
        await take(again)

    asyncio.run(run())


def test_a_killed_holder_wastes_its_lease_at_most(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        for _ in range(5):
            holder = quota(str(tmp_path), clock, LARGE)
            for _ in range(100):
                await take(holder)
        status = await holder.status()
        assert 500 <= status.spent_today <= 500 + 5 * largest_lease(LARGE)

    asyncio.run(run())


def test_a_deleted_ledger_is_written_again_by_a_holder_that_knows_it(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        holder = quota(str(tmp_path), clock)
        await take(holder)
        (tmp_path / PATH).unlink()
        await take(holder)
        assert (await holder.status()).spent_today == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\x00", b"[]", b'{"schema_version": "99"}', b'{"days": 3}']
)
def test_an_unreadable_ledger_stops_with_the_remedy(tmp_path, content):
    path = tmp_path / PATH
    path.parent.mkdir()
    path.write_bytes(content)
    holder = quota(str(tmp_path), SimulatedClock())
    for action in (holder.reserve(1), holder.status()):
        with pytest.raises(OutputError, match=r"not a quota ledger.*delete it after") as caught:
            asyncio.run(action)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_write_whose_answer_is_lost_counts_for_sure_and_once(tmp_path):
    class Lossy(ObjectStore):
        lost = 0

        def replace(self, path: str, content: bytes, etag: str) -> str:
            written = super().replace(path, content, etag)
            if Lossy.lost == 0:
                Lossy.lost += 1
                raise ConnectionError("the answer was lost")
            return written

    async def run() -> None:
        holder = Quota(place(Lossy(str(tmp_path))), SMALL, clock=SimulatedClock())
        await take(holder)
        with pytest.raises(ConnectionError):
            await holder.reserve(100)
        await take(holder)
        await holder.return_unused()
        assert (await holder.status()).spent_today == 3

    asyncio.run(run())


def test_a_store_slower_than_a_lease_gives_no_stale_right_to_send(tmp_path):
    clock = SimulatedClock()

    class Slow(ObjectStore):
        def create(self, path: str, content: bytes) -> str:
            clock.time += LEASE_S + 1
            return super().create(path, content)

    async def run() -> None:
        holder = Quota(place(Slow(str(tmp_path))), SMALL, clock=clock)
        assert (await refusal(holder)).reason == "per_minute"
        await take(holder)
        assert (await holder.status()).spent_today == 1

    asyncio.run(run())


def test_a_pacific_day_has_23_24_or_25_hours():
    def begins_and_ends(day: date) -> list[str]:
        resets = reset_of(day - timedelta(days=1)), reset_of(day)
        return [reset.astimezone(UTC).strftime("%d %H") for reset in resets]

    assert begins_and_ends(date(2026, 3, 8)) == ["08 08", "09 07"]
    assert begins_and_ends(date(2026, 6, 10)) == ["10 07", "11 07"]
    assert begins_and_ends(date(2026, 11, 1)) == ["01 07", "02 08"]


@pytest.mark.parametrize("day", [date(2026, 3, 8), date(2026, 6, 10), date(2026, 11, 1), date(2026, 12, 31)])
def test_the_day_changes_at_the_reset_and_not_before(day):
    reset = reset_of(day).timestamp()
    assert (pacific_day(reset - 0.001), pacific_day(reset)) == (day, day + timedelta(days=1))
