"""The server's clock decides what time it is."""

from __future__ import annotations

import asyncio
from email.utils import formatdate

import pytest

from actors.gemini.quota.server_time import ServerTime
from tests.support.quota_simulation import SimulatedClock, quota, refusal, take, take_all


def at(clock: SimulatedClock, ahead_s: float) -> dict[str, str]:
    """Return the headers of a server whose clock is right, while `clock` is ahead of it."""
    return {"Date": formatdate(int(clock.time - ahead_s), usegmt=True)}


@pytest.mark.parametrize("ahead_s", [300.0, -300.0, 3.7, 86_400.0 * 365])
def test_a_clock_is_corrected_to_the_second(ahead_s, caplog):
    clock = SimulatedClock()
    clock.time += 0.4
    corrected = ServerTime(clock)
    sent_at = corrected.local()
    clock.time += 0.2
    corrected.observe(at(clock, ahead_s), sent_at)
    assert corrected.now() == pytest.approx(clock.time - ahead_s, abs=1)
    assert ("synchronise" in caplog.text) is (abs(ahead_s) > 5)


def test_a_right_clock_never_jumps():
    clock = SimulatedClock()
    corrected = ServerTime(clock)
    for step in range(200):
        sent_at = corrected.local()
        clock.time += step * 0.013
        corrected.observe(at(clock, 0), sent_at)
        assert corrected.now() == clock.time
        clock.time += 0.77


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}, {"date": ""}])
def test_without_a_date_nothing_changes(headers):
    clock = SimulatedClock()
    corrected = ServerTime(clock)
    corrected.observe(headers, clock.time)
    assert corrected.now() == clock.time


def test_a_refusal_for_the_day_before_midnight_leaves_tomorrow_alone_though_the_clock_is_ahead(tmp_path):
    async def run() -> None:
        clock = SimulatedClock("2026-06-11T00:02:00-07:00")
        corrected = ServerTime(clock)
        corrected.observe(at(clock, 300), clock.time)
        holder = quota(str(tmp_path), corrected)
        await holder.refused(await take(holder), per_day=True)
        assert (await refusal(holder)).reason == "per_day"
        clock.time += 300
        assert len((await take_all(holder))[0]) == 10

    asyncio.run(run())


def test_a_run_that_begins_with_a_wrong_clock_forgets_no_request_of_the_last_minute(tmp_path):
    async def run() -> None:
        clock, ahead = SimulatedClock(), SimulatedClock()
        holder = quota(str(tmp_path), clock)
        assert len((await take_all(holder))[0]) == 10
        ahead.time += 300
        await quota(str(tmp_path), ahead).begin_run("run", "out")
        assert (await refusal(quota(str(tmp_path), clock))).reason == "per_minute"

    asyncio.run(run())
