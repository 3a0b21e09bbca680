"""Outages, refusals and wrong clocks cost few requests and no outcome; a budget holds through restarts."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime

import pytest

from actors.fingerprint import crop_sha256
from actors.gemini.api.tokens import TokenUsage, cost_usd
from actors.gemini.quota.ledger import Ledger, read_ledger
from actors.gemini.settings import GeminiSettings
from actors.storage.layout import quota_path
from actors.storage.object_store import ObjectStore
from tests.servers.gemini_clock import ServerClock
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import KEY, MODEL, GeminiServer, Seen, gemini_server
from tests.support.gemini_asking import jpeg
from tests.support.gemini_job import answered, most_in_a_minute
from tests.support.online_asking import annotator, ask, ask_and_finish, asked
from tests.support.quota_simulation import in_memory

NOON = datetime.fromisoformat("2026-06-10T12:00:00-07:00").timestamp()
A_DAY_S = 86_400


@pytest.fixture
def clock() -> ServerClock:
    return ServerClock(NOON, speed=0)


def failed(server: GeminiServer) -> list[Seen]:
    return [seen for seen in server.counted if seen.status != 200]


@pytest.fixture
def output() -> str:
    return in_memory()


def ledger(output: str) -> Ledger:
    found = read_ledger(ObjectStore(output), quota_path("default", MODEL))
    assert found is not None
    return found[0]


# --- outages ---


@pytest.mark.parametrize("in_flight", [1, 6])
@pytest.mark.parametrize("kind", ["unavailable", "bad_gateway"])
def test_an_outage_of_ten_minutes_costs_at_most_ten_requests(output, monkeypatch, clock, kind, in_flight):
    outage = Fault(kind, None, retry_after_s=1, until=NOON + 600)
    limits = {"requests_per_minute": 10, "requests_per_day": 250, "max_in_flight": in_flight}
    with gemini_server(requests_per_day=250, clock=clock, faults=[outage]) as server:
        found = ask(output, server, monkeypatch, 80, persons_per_request=4, **limits)
    assert found.stop is None
    assert {entry.annotation.status for entry in found.entries.values()} == {"ok"}
    assert len(found.entries) == 80
    assert 2 <= len(failed(server)) <= 10
    assert set(answered(server.journal).values()) == {1}


def test_an_outage_in_which_nothing_can_be_reached_costs_nothing(output, monkeypatch, clock):
    with gemini_server(clock=clock) as server:
        pass
    found = ask(output, server, monkeypatch, 8)
    assert found.stop is not None
    assert found.stop.kind == "unreachable"
    assert sum(ledger(output).days.values()) == 0


def test_while_nothing_is_answered_no_request_is_split_and_nobody_gets_an_outcome(output, monkeypatch, clock):
    outage = Fault("internal", 9)
    with gemini_server(clock=clock, faults=[outage]) as server:
        found = ask(output, server, monkeypatch, 8, retries=0, persons_per_request=8)
    assert {entry.annotation.status for entry in found.entries.values()} == {"ok"}
    # The only request alternates with one about a blank image until one of them is answered.
    assert {len(seen.images) for seen in server.journal} == {8, 1}
    assert len(server.counted) <= 11


def test_a_request_that_fails_while_others_are_answered_is_split_to_its_crop(output, monkeypatch, clock):
    bad = crop_sha256(jpeg(5))
    with gemini_server(clock=clock, faults=[Fault("internal", None, image_sha256=bad)]) as server:
        found = ask(output, server, monkeypatch, 64, persons_per_request=8)
    statuses = Counter(entry.annotation.status for entry in found.entries.values())
    assert statuses == {"ok": 63, "error": 1}
    assert found.entries[bad].annotation.status == "error"
    times = answered(server.journal)
    assert {times[digest] for digest in found.entries if digest != bad} == {1}


def test_a_second_run_in_a_lasting_outage_sends_one_request(output, monkeypatch, clock):
    with gemini_server(clock=clock, faults=[Fault("internal", None)]) as server:
        first = ask(output, server, monkeypatch, 8)
        begun = len(server.counted)
        clock.advance(3600)
        second = ask(output, server, monkeypatch, 8)
    assert first.stop is not None
    assert second.stop is not None
    assert first.stop.kind == second.stop.kind == "unreachable"
    assert "nothing was answered for" in second.stop.reason
    assert begun <= 12
    assert len(server.counted) - begun == 1


# --- refusals ---


def test_bare_refusals_without_an_end_park_the_run(output, monkeypatch, clock):
    with gemini_server(clock=clock, faults=[Fault("rate_bare", None)]) as server:
        found = ask(output, server, monkeypatch, 8)
    assert found.stop is not None
    assert found.stop.kind == "daily_quota"
    assert len(server.journal) == 10
    assert clock.now() - NOON < 1800


def test_a_delay_of_18_hours_parks_the_run_at_once(output, monkeypatch, clock):
    delay = Fault("rate_minute", retry_after_s=65_205)
    with gemini_server(clock=clock, faults=[delay]) as server:
        found = ask(output, server, monkeypatch, 8)
    assert found.stop is not None
    assert found.stop.kind == "daily_quota"
    assert len(server.journal) == 1
    assert clock.now() - NOON < 60


# --- clocks ---


@pytest.mark.parametrize("ahead_s", [300.0, -300.0])
def test_a_wrong_clock_around_midnight_marks_no_other_day(output, monkeypatch, ahead_s):
    before = datetime.fromisoformat("2026-06-10T23:58:00-07:00").timestamp()
    clock = ServerClock(before, speed=0)
    limits = {"requests_per_day": 20, "persons_per_request": 1, "ahead_s": ahead_s}
    with gemini_server(requests_per_day=20, clock=clock, faults=[Fault("rate_day")]) as server:
        found = ask(output, server, monkeypatch, 20, on_daily_quota="wait", **limits)
    assert len(found.entries) == 20
    assert server.counted_by_day() == {"2026-06-11": 20}
    assert clock.now() - before < 600


# --- money ---


def test_a_run_stops_at_its_cost(output, monkeypatch, clock):
    limits = {"max_cost_usd": 0.005, "persons_per_request": 8}
    with gemini_server(clock=clock) as server:
        found, spent = ask_and_finish(output, server, monkeypatch, 80, **limits)
    assert found.stop is not None
    assert found.stop.kind == "budget"
    assert len(found.entries) == 8 * len(server.journal) < 80
    costs = [entry.cost_usd for entry in found.entries.values()]
    # The run stops after the request that reaches the limit.
    assert 0.005 <= sum(costs) < 0.005 + 8 * max(costs)
    assert spent.counted_usd == pytest.approx(sum(costs))
    assert spent.unknown_usd == pytest.approx(0, abs=1e-9)
    assert spent.expected_usd == pytest.approx(spent.counted_usd, rel=0.5)


@pytest.mark.parametrize("in_flight", [1, 6])
def test_restarts_and_discarded_answers_do_not_widen_the_budget(output, monkeypatch, clock, in_flight):
    """The actor is killed after each call, and many answers are discarded."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    kinds = ("prose", "missing_item", "safety")
    faults = [Fault(kind, 3) for _ in range(3) for kind in kinds]
    budget = 0.08
    limits = {"max_cost_usd": budget, "persons_per_request": 4, "max_in_flight": in_flight}
    with gemini_server(clock=clock, faults=faults) as server:

        async def run(first: int) -> bool:
            crops = asked([jpeg(n) for n in range(first, first + 100)], f"shard-{first}")
            found = await annotator(output, server, **limits).ask(crops)
            return found.stop is not None

        stopped = [asyncio.run(run(first)) for first in range(0, 500, 100)]
    assert stopped[0] is False
    assert stopped[-1] is True
    costs = [cost_usd(TokenUsage(*seen.usage), GeminiSettings()) for seen in server.counted]
    assert budget / 2 < sum(costs) <= budget + max(costs)
    # A request whose answer the ledger doesn't know counts at the most that it may have cost.
    (run_spend,) = ledger(output).runs.values()
    assert budget <= run_spend.spent_usd
    assert run_spend.counted_usd <= sum(costs) <= run_spend.spent_usd


def test_a_time_out_counts_as_spent(output, monkeypatch):
    with gemini_server(faults=[Fault("hang")]) as server:
        limits = {"timeout_s": 0.3, "persons_per_request": 4}
        found, spent = ask_and_finish(output, server, monkeypatch, 4, **limits)
    assert len(found.entries) == 4
    counted = sum(entry.cost_usd for entry in found.entries.values())
    assert spent.counted_usd == pytest.approx(counted)
    assert spent.unknown_usd == pytest.approx(counted, rel=0.5)


def test_good_answers_of_a_partly_wrong_answer_are_kept_and_only_the_others_asked_again(
    output, monkeypatch, clock
):
    faults = [Fault(kind, min_crops=8) for kind in ("missing_item", "doubled_item", "wrong_ids")]
    with gemini_server(clock=clock, faults=faults) as server:
        found, spent = ask_and_finish(output, server, monkeypatch, 24, persons_per_request=8)
    assert {entry.annotation.status for entry in found.entries.values()} == {"ok"}
    assert sorted(len(seen.images) for seen in server.journal) == [1, 1, 1, 8, 8, 8]
    assert sum(times > 1 for times in answered(server.journal).values()) == 3
    # The cost of a request is divided among the persons that it brought an answer for.
    counted = sum(entry.cost_usd for entry in found.entries.values())
    assert spent.counted_usd == pytest.approx(counted)


# --- days ---


def test_days_of_two_outputs_with_outages_refusals_and_new_keys_use_the_quota_and_no_more(
    output, monkeypatch
):
    """Each day has a new key, and every second one a clock that is five minutes ahead."""
    a_minute, a_day, days = 10, 60, 4
    clock = ServerClock(NOON, speed=0)
    keys = ("AIza-one", "AIza-two", "AIza-three", "AIza-four", "AIza-five")
    limits = {
        "requests_per_minute": a_minute,
        "requests_per_day": a_day,
        "persons_per_request": 2,
        "ledger_uri": f"{output}/ledger",
        "max_cost_usd": 1000,
    }
    faults = [
        Fault("unavailable", None, retry_after_s=1, since=NOON + 120, until=NOON + 720),
        Fault("rate_bare", 2, since=NOON + A_DAY_S + 60),
        Fault("internal", None, since=NOON + 2 * A_DAY_S + 60, until=NOON + 2 * A_DAY_S + 660),
        Fault("rate_minute", 1, retry_after_s=65_205, since=NOON + 3 * A_DAY_S + 60),
    ]
    quota = {"requests_per_minute": a_minute, "requests_per_day": a_day}
    with gemini_server(clock=clock, faults=faults, keys=keys, **quota) as server:

        async def a_day_of(day: int) -> None:
            monkeypatch.setenv("GEMINI_API_KEY", keys[day])
            ahead_s = 300.0 if day % 2 else 0.0
            for at, persons in enumerate((50, 400)):
                # The second output has more than the rest of the day allows.
                one = annotator(f"{output}/{at}", server, run_id=f"run-{at}", ahead_s=ahead_s, **limits)
                crops = [jpeg(10_000 * day + 5000 * at + n) for n in range(persons)]
                found = await one.ask(asked(crops, f"{day}-{at}"))
            assert found.stop is not None
            assert found.stop.kind == "daily_quota"

        for day in range(days):
            asyncio.run(a_day_of(day))
            clock.set(start=NOON + A_DAY_S * (day + 1))
    spent_by_day = server.counted_by_day()
    assert len(spent_by_day) == days
    assert max(spent_by_day.values()) <= a_day
    # The last day ends with a delay of 18 hours.
    assert min(list(spent_by_day.values())[: days - 1]) >= 0.95 * a_day
    assert most_in_a_minute(seen.at for seen in server.counted) <= a_minute
    assert set(answered(server.journal).values()) == {1}


def test_a_budget_holds_over_days_with_outages_refusals_and_kills(output, monkeypatch):
    a_day, budget = 60, 0.21
    clock = ServerClock(NOON, speed=0)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    faults = [
        Fault("unavailable", None, retry_after_s=1, since=NOON + 120, until=NOON + 720),
        Fault("rate_bare", 2, since=NOON + A_DAY_S + 30),
        Fault("missing_item", 3, since=NOON + A_DAY_S + 60),
    ]
    limits = {"requests_per_minute": 10, "requests_per_day": a_day}
    stops = []
    with gemini_server(requests_per_day=a_day, clock=clock, faults=faults) as server:

        async def a_day_of(day: int) -> str:
            """Ask until the day or the budget is spent. The annotator ends without a word, as in a kill."""
            one = annotator(output, server, persons_per_request=4, max_cost_usd=budget, **limits)
            crops = [jpeg(10_000 * day + n) for n in range(400)]
            stop = (await one.ask(asked(crops, f"day-{day}"))).stop
            assert stop is not None
            return stop.kind

        while "budget" not in stops:
            stops.append(asyncio.run(a_day_of(len(stops))))
            clock.set(start=NOON + A_DAY_S * len(stops))
    costs = [cost_usd(TokenUsage(*seen.usage), GeminiSettings()) for seen in server.counted]
    assert len(stops) >= 3
    assert 0.9 * budget <= sum(costs) <= budget + max(costs)
    assert max(server.counted_by_day().values()) <= a_day
    assert min(list(server.counted_by_day().values())[:-1]) >= 0.95 * a_day


def test_a_wrong_key_costs_the_project_no_request(output, monkeypatch, clock):
    with gemini_server(clock=clock, faults=[Fault("invalid_key")]) as server:
        refused, _ = ask_and_finish(output, server, monkeypatch, 8)
        assert refused.stop is not None
        assert refused.stop.kind == "refused"
        assert sum(ledger(output).days.values()) == 0
