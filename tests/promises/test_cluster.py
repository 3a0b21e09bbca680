"""Runs on an existing Ray cluster: a node joins and another one dies, or the cluster can't be reached."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support import job, ray_cluster, without_ray
from tests.support.job import Models
from tests.support.outcomes import assert_whole, outcome

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def at_work(actors: list[ray_cluster.Actor]) -> list[ray_cluster.Actor]:
    """Return the actors that are processing something, as their processes' titles say."""
    return [actor for actor in actors if ".submit" in Path(f"/proc/{actor.pid}/cmdline").read_text()]


def test_a_node_that_joins_is_used_and_one_that_dies_costs_nothing(models: Models, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    job.write_shards(source, "abcdefghijklmnopqrstuvwxyz")
    options = [*models.options(smolvlm=False), "--set", "output.person_json=files"]
    without_ray.annotate(source, tmp_path / "undisturbed", *options)
    cluster = ray_cluster.new_cluster(num_cpus=0)
    try:
        first = ray_cluster.add_node(cluster, num_cpus=2)
        run = job.start(
            "annotate", "--input", source, "--output", output, *options, "--set", "detector.actors=auto",
            environment={"RAY_ADDRESS": str(cluster.address)},
        )  # fmt: skip
        (stopped,) = job.wait_for(lambda: at_work(ray_cluster.actors(cluster, "detect")), run)
        # The only detector stops, so the run can't end before it has used the node that joins. It stops with
        # its first parcel: the first commit may come when all other shards are detected, and the pool doesn't
        # grow while Ray waits for an actor to start.
        os.kill(stopped.pid, signal.SIGSTOP)
        joined = ray_cluster.add_node(cluster, num_cpus=2)
        committed = len(job.records(output))
        assert job.wait_for(lambda: ray_cluster.actors(cluster, "detect", joined), run)
        assert job.wait_for(lambda: len(job.records(output)) > committed, run)
        assert run.poll() is None, "the stopped detector has a shard"
        ray_cluster.kill_node(cluster, first, [stopped])
        done = job.finish(run)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    assert_whole(str(output), outcome(str(tmp_path / "undisturbed")))


def test_a_cluster_out_of_reach_is_said_before_any_work(models: Models, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    job.write_shards(source, "a")
    done = job.annotate(
        source, output, *models.options(smolvlm=False), "--set", "ray.address=127.0.0.1:1", expect=2
    )
    assert "ray.address: can't use 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()
