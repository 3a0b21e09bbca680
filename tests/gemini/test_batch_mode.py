"""Batch mode, through the command, gives the same answers as online mode and submits no job twice."""

from __future__ import annotations

import json

import pytest

from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import gemini_server
from tests.support import gemini_job as g
from tests.support import job, without_ray

pytestmark = pytest.mark.timeout(600)

A_DAY_S = 24 * 3600
"""How long a batch job takes that must still run when something else has happened. The tests then set the
server's clock forward, so they neither wait nor depend on how fast the machine is."""

BATCH = {"mode": "batch", "batch.poll_s": 0.3, "persons_per_request": 4}
VALUES = ["gender", "age_group", "exact_age", "glasses", "season_clothing"]


def answers(output):
    return job.table(output, g.ANSWERS).select([*job.ROW_KEYS, "status", *VALUES]).to_pylist()


def states(output):
    return [json.loads(path.read_bytes()) for path in sorted((output / "gemini/batches").glob("*.json"))]


def test_batch_gives_the_same_annotations_as_online_at_half_the_price(tmp_path):
    online, batch = tmp_path / "online", tmp_path / "batch"
    for output in (online, batch):
        g.write_backlog(output, shards=3, persons=7)
    with gemini_server() as server:
        without_ray.gemini(online, server.base_url, persons_per_request=4)
        asked_online = g.answered(server.journal)
        without_ray.gemini(batch, server.base_url, **BATCH)
        asked = g.answered(server.journal) - asked_online
    assert answers(batch) == answers(online)
    assert g.outcomes(batch) == {"ok": 21}
    assert asked == asked_online
    assert g.egress(batch) == g.egress(online)
    cost = {o: sum(r["cost_usd"]["gemini"] for r in job.records(o).values()) for o in (online, batch)}
    # The crops are grouped into different requests, so the prompts' share of the cost differs a little.
    assert cost[batch] == pytest.approx(cost[online] / 2, rel=0.2)


@pytest.mark.ray
def test_a_job_whose_driver_was_killed_is_found_again_and_not_submitted_twice(tmp_path):
    g.write_backlog(tmp_path, shards=2, persons=8)
    with gemini_server(batch_delay_s=A_DAY_S) as server:
        driver = g.start(tmp_path, server.base_url, own_ray=True, **BATCH)
        assert job.wait_for(lambda: server.batches.jobs, driver)
        g.kill_everything(driver)
        server.clock.advance(A_DAY_S)
        assert [state["closed"] for state in states(tmp_path)] == [None]
        without_ray.gemini(tmp_path, server.base_url, **BATCH)
        assert len(server.batches.jobs) == 1
        assert set(g.answered(server.journal).values()) == {1}
    assert [state["closed"] for state in states(tmp_path)] == ["succeeded"]
    assert g.outcomes(tmp_path) == {"ok": 16}


@pytest.mark.long
@pytest.mark.ray
def test_two_jobs_at_once_submit_nobody_twice(tmp_path):
    g.write_backlog(tmp_path, shards=4, persons=4)
    with gemini_server(batch_delay_s=3) as server:
        both = [g.start(tmp_path, server.base_url, own_ray=True, **BATCH) for _ in range(2)]
        ended = [job.finish(driver) for driver in both]
        assert [done.returncode for done in ended] == [0, 0], ended
        assert set(g.answered(server.journal).values()) == {1}
    assert g.outcomes(tmp_path) == {"ok": 16}


@pytest.mark.ray
def test_a_job_that_waits_is_left_to_the_run_that_submitted_it(tmp_path):
    g.write_backlog(tmp_path, shards=2, persons=4)
    with gemini_server(batch_delay_s=A_DAY_S) as server:
        first = g.start(tmp_path, server.base_url, **BATCH)
        assert job.wait_for(lambda: server.batches.jobs, first)
        second = without_ray.gemini(tmp_path, server.base_url, **BATCH)
        assert first.poll() is None, "the second run must end at once, while the first waits for its answers"
        assert "2 shards left to another run" in second.stdout
        server.clock.advance(A_DAY_S)
        done = job.finish(first)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(server.batches.jobs) == 1
    assert g.outcomes(tmp_path) == {"ok": 8}


def test_after_the_deadline_the_job_is_cancelled_and_its_persons_are_pending(tmp_path):
    g.write_backlog(tmp_path, shards=2, persons=4)
    with gemini_server(batch_delay_s=3600) as server:
        without_ray.gemini(tmp_path, server.base_url, **BATCH | {"batch.deadline_s": 1})
        assert [state["closed"] for state in states(tmp_path)] == ["cancelled"]
        assert not g.answered(server.journal)
        status = json.loads(job.shopframe("status", "--output", tmp_path, "--json").stdout)
        assert status["quota"]["persons_waiting"] == 8
        without_ray.gemini(tmp_path, server.base_url, mode="online")
    assert g.outcomes(tmp_path) == {"ok": 8}


def test_lines_that_fail_are_asked_again_and_nobody_is_lost(tmp_path):
    g.write_backlog(tmp_path, shards=2, persons=8)
    faults = [Fault("wrong_ids", where="batch"), Fault("blocked_prompt", where="batch", times=3)]
    with gemini_server(faults=faults) as server:
        without_ray.gemini(tmp_path, server.base_url, **BATCH)
        found = g.outcomes(tmp_path)
    assert sum(found.values()) == 16
    assert set(found) <= {"ok", "blocked"}
    assert len(states(tmp_path)) > 1, (
        "requests with mixed-up answers must be asked again in halves, in another job"
    )
    assert all(state["closed"] == "succeeded" for state in states(tmp_path))
