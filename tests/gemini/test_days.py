"""A backlog takes several days, and the run is killed on each of the first two.

On the first day, the server fails for ten minutes; on the third, it refuses two requests without details; and
on the fourth, it names a delay of 18 hours. Each run has a new key, and the clock of every second one is five
minutes ahead. The quota is used but never exceeded, what killed runs have spent is not forgotten, and no
answered person is sent again, except for the requests in flight at each kill.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from actors.gemini.api.client import GeminiClient
from actors.gemini.api.packing import Crop, pack
from actors.gemini.api.tokens import TokenUsage, cost_usd
from actors.gemini.quota.ledger import read_ledger
from actors.gemini.settings import GeminiSettings
from actors.records import Annotation
from actors.storage.layout import quota_path
from actors.storage.object_store import ObjectStore
from tests.servers.gemini_clock import ServerClock
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import KEY, MODEL, GeminiServer, gemini_server
from tests.support import gemini_job, job
from tests.support.gemini_asking import SCHEMA, asking

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(900)]

SHARDS, A_SHARD, A_REQUEST = 20, 80, 8
A_MINUTE, A_DAY = 10, 60
KILLS = 2
NOON = datetime.fromisoformat("2026-03-07T12:00:00-08:00").timestamp()
"""The clocks change on the next day, which has 23 hours."""
A_DAY_S = 86_400
KEYS = tuple(f"AIza-of-day-{day}" for day in range(KILLS + 1))
FAULTS = [
    Fault("unavailable", None, retry_after_s=1, since=NOON + 60, until=NOON + 660),
    Fault("rate_bare", 2, since=NOON + A_DAY_S),
    Fault("rate_minute", 1, retry_after_s=65_205, since=NOON + 2 * A_DAY_S),
]


@pytest.fixture(scope="module")
def days(tmp_path_factory) -> tuple[Path, GeminiServer]:
    """Answer 1,600 persons over several days, with a kill on each of the first two."""
    output = tmp_path_factory.mktemp("days") / "out"
    gemini_job.write_backlog(output, SHARDS, A_SHARD)
    settings = {
        "requests_per_minute": A_MINUTE,
        "requests_per_day": A_DAY,
        "persons_per_request": A_REQUEST,
        "on_daily_quota": "wait",
    }
    rng = random.Random(11)
    clock = ServerClock(NOON, speed=0)
    quota = {"requests_per_minute": A_MINUTE, "requests_per_day": A_DAY}
    with gemini_server(clock=clock, keys=KEYS, faults=FAULTS, **quota) as server:
        for day in range(KILLS):
            killed_at = A_DAY * day + rng.randrange(5, A_DAY - 5)
            ahead = "standing+300" if day % 2 else "standing"
            process = gemini_job.start(
                output, server.base_url, clock=ahead, own_ray=True, key=KEYS[day], **settings
            )
            reached = job.wait_for(lambda at=killed_at: len(server.journal) >= at, process)
            time.sleep(rng.uniform(0, 0.02))
            gemini_job.kill_everything(process)
            assert reached
            assert process.returncode == -9
        gemini_job.gemini(output, server.base_url, clock="standing", key=KEYS[KILLS], **settings)
    return output, server


def test_every_person_has_one_outcome(days):
    output, _ = days
    assert gemini_job.outcomes(output) == {"ok": SHARDS * A_SHARD}
    assert not job.debris(output)


def test_the_server_never_saw_more_than_its_quota_and_at_least_95_percent_of_it(days):
    _, server = days
    statuses = Counter(seen.status for seen in server.journal)
    assert statuses.keys() == {200, 429, 503}
    assert statuses[429] == 3
    assert 2 <= statuses[503] <= 10
    assert gemini_job.most_in_a_minute(seen.at for seen in server.counted) <= A_MINUTE
    a_day = list(server.counted_by_day().values())
    assert max(a_day) <= A_DAY
    assert len(a_day) >= KILLS + 1
    # The delay of 18 hours ends its day early.
    assert sorted(a_day[:-1])[1] >= 0.95 * A_DAY


def test_nobody_was_answered_twice_but_for_the_request_in_flight_at_each_kill(days):
    output, server = days
    answered = gemini_job.answered(server.journal)
    assert len(answered) == SHARDS * A_SHARD
    assert sum(answered.values()) - len(answered) <= KILLS * A_REQUEST
    # The record of what was sent also contains the requests whose answers were lost.
    recorded = gemini_job.egress(output)
    assert all(recorded[crop] >= times for crop, times in answered.items())
    assert recorded.keys() == answered.keys()


def test_what_killed_runs_have_spent_is_counted_in_the_run_that_ended(days):
    output, server = days
    found = read_ledger(ObjectStore(str(output)), quota_path("default", MODEL))
    assert found is not None
    (run,) = found[0].runs.values()
    spent = sum(cost_usd(TokenUsage(*seen.usage), GeminiSettings()) for seen in server.counted)
    assert run.ended
    # The ledger counts answers that it doesn't know, because of a kill, at the most that they may have cost.
    assert run.counted_usd <= spent <= run.spent_usd
    assert run.unknown_usd <= 2 * KILLS * 0.02
    assert len(found[0].keys) == len(KEYS)


def test_answers_are_those_to_each_persons_own_crop(days):
    output, _ = days
    persons = job.table(output, "persons").to_pylist()
    crops = [Crop(row["frame_key"], row["crop"]) for row in persons]

    async def all_of_them(client: GeminiClient) -> dict[str, Annotation]:
        found: dict[str, Annotation] = {}
        for request in pack(crops, 16, seed=5):
            found |= (await client.ask(request)).annotations
        return found

    with gemini_server() as server:
        expected = asking(server.base_url, KEY, all_of_them)
    names = [attribute.name for attribute in SCHEMA]
    rows = job.table(output, gemini_job.ANSWERS).to_pylist()
    assert {row["frame_key"]: {name: row[name] for name in names} for row in rows} == {
        key: annotation.values for key, annotation in expected.items()
    }
    assert len(Counter(str(annotation.values) for annotation in expected.values())) > A_SHARD
