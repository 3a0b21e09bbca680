"""Killed actors of the Gemini stage are restarted, and the summary names the error of a shard."""

from __future__ import annotations

import json
import os
import signal
import time
from io import StringIO

import pytest
from rich.console import Console

from actors.gemini.gemini_run import GeminiRun
from actors.storage.object_store import ObjectStore
from jobs.run.output_status import output_status
from jobs.run.summary import print_summary
from tests.servers.gemini_clock import ServerClock
from tests.servers.gemini_server import KEY, gemini_server
from tests.support import gemini_job, job, ray_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SHARDS, A_SHARD = 6, 50


def kill_new(name: str, before: set[str]) -> int:
    """Kill the actors of this class that weren't known before, and return their number."""
    alive = ray_cluster.actors(ray_cluster.session_cluster(), name)
    killed = {actor.pid for actor in alive if actor.id not in before}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return len(killed)


@pytest.mark.parametrize("actor", ["OnlineAnnotator", pytest.param("DrainActor", marks=pytest.mark.long)])
def test_an_actor_that_is_killed_comes_back_and_the_job_goes_on(tmp_path, actor):
    output = tmp_path / "out"
    gemini_job.write_backlog(output, SHARDS, A_SHARD)
    before = ray_cluster.known_actors(ray_cluster.session_cluster())
    with gemini_server(clock=ServerClock(speed=0)) as server:
        process = gemini_job.start(
            output,
            server.base_url,
            clock="standing",
            requests_per_minute=10_000,
            requests_per_day=None,
            persons_per_request=1,
        )
        assert job.wait_for(lambda: len(server.journal) >= 20, process)
        killed = kill_new(actor, before)
        done = job.finish(process)
    assert killed == 1
    assert done.returncode == 0, done.stdout + done.stderr
    assert gemini_job.outcomes(output) == {"ok": SHARDS * A_SHARD}
    answered = gemini_job.answered(server.journal)
    assert min(job.table(output, gemini_job.ANSWERS)["cost_usd"].to_pylist()) > 0
    # Only the request that was in flight when the actor was killed may be sent again.
    assert sum(answered.values()) - len(answered) <= 1


def test_an_actor_that_cannot_be_reached_for_a_while_costs_no_shard(tmp_path):
    """Its node may be gone long before Ray knows of it. Here, the raylet that would say so is stopped."""
    output = tmp_path / "out"
    gemini_job.write_backlog(output, SHARDS, 4)
    cluster = ray_cluster.new_cluster(num_cpus=1)
    try:
        assert cluster.head_node is not None
        (raylet,) = cluster.head_node.all_processes["raylet"]
        with gemini_server(answer_s=(1.0, 1.0)) as server:
            quota = {"requests_per_minute": 1000, "requests_per_day": None}
            asking = gemini_job.options(server.base_url, persons_per_request=1, max_in_flight=4, **quota)
            process = job.start(
                "gemini", "--output", output, *asking,
                environment={"RAY_ADDRESS": str(cluster.address), "GEMINI_API_KEY": KEY},
            )  # fmt: skip
            assert job.wait_for(lambda: server.journal, process)
            (drain,) = ray_cluster.actors(cluster, "DrainActor")
            os.kill(raylet.process.pid, signal.SIGSTOP)
            try:
                os.kill(drain.pid, signal.SIGKILL)
                # Until Ray's own tries are spent.
                time.sleep(8)
            finally:
                os.kill(raylet.process.pid, signal.SIGCONT)
            done = job.finish(process)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "There are 1 retries remaining" in done.stdout + done.stderr, "Ray must have tried in vain"
    assert gemini_job.outcomes(output) == {"ok": SHARDS * 4}
    # Its answers were in the journal.
    assert set(gemini_job.answered(server.journal).values()) == {1}


def test_a_batch_annotator_that_is_killed_comes_back_and_finishes_its_job(tmp_path):
    gemini_job.write_backlog(tmp_path, shards=2, persons=8)
    before = ray_cluster.known_actors(ray_cluster.session_cluster())
    with gemini_server(batch_delay_s=3600) as server:
        process = gemini_job.start(
            tmp_path,
            server.base_url,
            mode="batch",
            persons_per_request=4,
            **{"batch.poll_s": 0.3},
        )
        assert job.wait_for(lambda: server.batches.jobs, process)
        killed = kill_new("BatchAnnotator", before)
        server.clock.advance(3600)
        done = job.finish(process)
        assert killed == 1
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(server.batches.jobs) == 1, "the job must be found again, not submitted twice"
    first, *_ = map(json.loads, (tmp_path / "processing.log").read_text().splitlines())
    lines = [line for line in ray_cluster.worker_lines() if line["run_id"] == first["run_id"]]
    assert [line["message"] for line in lines if line["logger"] == "actors.gemini.batch"] == [
        f"batch job {record.stem} has ended: succeeded"
        for record in (tmp_path / "gemini/batches").glob("*.json")
    ], "the actor that came back logs for the run, too"
    assert gemini_job.outcomes(tmp_path) == {"ok": 16}


def test_what_went_wrong_with_a_shard_is_said(tmp_path):
    gemini_job.write_backlog(tmp_path, 1, 1)
    run = GeminiRun(errors=[("shard-000", "its commit record was changed by another run; run again")])
    said = StringIO()
    status = output_status(ObjectStore(str(tmp_path)))
    summary = {"shards_done": 0, "shards_failed": 0, "shards_postponed": 1, "shards_skipped": 0}
    summary |= {"frames": 0, "persons": 0}
    print_summary(Console(file=said, width=200), status, {**summary, "seconds": 1.0, "gemini": run.as_dict()})
    assert "gemini: shard-000: its commit record was changed by another run; run again" in said.getvalue()
