"""A run that `--restarts` keeps going outlives its whole cluster."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.support import job, ray_cluster, without_ray
from tests.support.job import Models
from tests.support.outcomes import assert_whole, outcome

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800), pytest.mark.long]


def _runs_of(process: job.Process) -> set[int]:
    """Return the processes that do the run, which are children of the one that the test has started."""
    found = job.descendants(process.pid)
    return {pid for pid, title in found.items() if title.split()[-2:] == ["--restarts", "0"]}


def test_a_cluster_that_is_lost_and_comes_back_at_its_address_is_used_again(models: Models, tmp_path: Path):
    source, undisturbed, output = (tmp_path / name for name in ("in", "undisturbed", "out"))
    job.write_shards(source, "abcdefghijklmnopqrst", frames=4)
    options = [*models.options(), "--set", "output.person_json=files"]
    without_ray.annotate(source, undisturbed, *options)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cluster = ray_cluster.new_cluster(num_cpus=3, gcs_server_port=port)
    try:
        run = job.start_command(
            [
                *(sys.executable, "-m", "jobs.annotate", "--restarts", 20),
                *("--input", source, "--output", output, *options),
            ],
            # Ray gives up after a minute by default.
            {"RAY_ADDRESS": str(cluster.address), "RAY_gcs_rpc_server_reconnect_timeout_s": "5"},
        )
        assert job.wait_for(lambda: job.records(output), run)
        first = _runs_of(run)
        assert cluster.head_node is not None
        cluster.head_node.kill_gcs_server()
        second = job.wait_for(lambda: _runs_of(run) - first, run)
        cluster.shutdown()
        # It finds no cluster.
        job.wait_for(lambda: not _runs_of(run) & second, run)
        cluster = ray_cluster.new_cluster(num_cpus=3, gcs_server_port=port)
        done = job.finish(run)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stderr
    assert "the run ended with exit code 1; it is started again" in done.stderr
    assert "the run ended with exit code 2; it is started again" in done.stderr
    assert_whole(str(output), outcome(str(undisturbed)))
