"""Whatever process of a run is killed, and when, the output is that of an undisturbed run.

Promise: a kill costs the shards in progress and the requests to Gemini in flight, and nothing else. Rounds
kill a detector, an annotator, Gemini's actor, a commit, a raylet, the GCS or the driver at random moments,
or stop the driver by SIGTERM or SIGINT. The same command is then given until it ends with exit code 0.

`FAULT_SEED` and `FAULT_ROUNDS` choose other draws and more of them; `make torture` runs many.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.command import EXIT_INTERRUPTED
from tests.servers.gemini_server import KEY, gemini_server
from tests.support import gemini_job, job, ray_cluster, without_ray
from tests.support.job import Models
from tests.support.outcomes import assert_whole, outcome

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3600)]

SEED = int(os.environ.get("FAULT_SEED", "1"))
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "0"))

WORKERS = {
    "detector": "MapBatches(detect)",
    "annotator": "MapBatches(annotate)",
    "gemini": "OnlineAnnotator",
    "commit": "MapBatches(run_stage)",
}
"""Titles of the workers' processes."""
NODES = ("raylet", "gcs")
DRIVERS = {"driver": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
VICTIMS = (*WORKERS, *NODES, *DRIVERS)
RUNS = 6
"""How often the command is given at most after a kill."""


@pytest.fixture(scope="module")
def server():
    with gemini_server() as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(models: Models, server, tmp_path_factory):
    """An input, and what a run on it leaves that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job.write_shards(folder / "in", "abcdef", frames=4)
    options = [*models.options(), *gemini_job.options(server.base_url, requests_per_minute=1000)]
    options += ["--set", "run.infrastructure_pause_s=0", "--set", "output.person_json=files"]
    without_ray.annotate(folder / "in", folder / "out", *options)
    expected = outcome(str(folder / "out"))
    assert len(expected["annotations/gemini"]) == len(expected["annotations/smolvlm"]) > 0
    return SimpleNamespace(source=folder / "in", options=options, expected=expected)


def _kill(victim: str, cluster, run, rng: random.Random) -> bool:
    """Kill the victim when it is there, and return whether it was."""

    def present() -> set[int]:
        title = WORKERS[victim]
        return {pid for pid in job.ray_workers(title) if pid != run.pid}

    job.wait_for(lambda: job.ray_workers("MapBatches(detect)"), run)
    time.sleep(rng.uniform(0, 4))
    if victim in WORKERS:
        for pid in job.wait_for(present, run):
            os.kill(pid, signal.SIGKILL)
            return True
        return False
    if victim in DRIVERS:
        if run.poll() is None:
            os.kill(run.pid, DRIVERS[victim])
            return True
        return False
    if victim == "raylet":
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        return True
    cluster.head_node.kill_gcs_server()
    return True


def _victims() -> list[tuple[str, int]]:
    """Return whom to kill, with the seed of the moment.

    There is no short round: each takes a cluster of its own, and `tests/promises` kills drivers, detectors
    and nodes.
    """
    return [(victim, SEED + n) for n in range(1, 1 + ROUNDS) for victim in VICTIMS]


@pytest.mark.parametrize(("victim", "seed"), _victims())
def test_a_kill_costs_only_what_was_in_progress(victim: str, seed: int, undisturbed, server, tmp_path: Path):
    output, rng = tmp_path / "out", random.Random(f"{victim} {seed}")
    arguments = ["annotate", "--input", undisturbed.source, "--output", output, *undisturbed.options]
    codes: list[int] = []
    was_killed = False
    for attempt in range(RUNS):
        # A cluster of its own, because it may not survive.
        cluster = ray_cluster.new_cluster(num_cpus=2)
        try:
            if victim == "raylet":
                cluster.add_node(num_cpus=3, object_store_memory=ray_cluster.STORE_BYTES)
            environment = {"RAY_ADDRESS": str(cluster.address), "GEMINI_API_KEY": KEY}
            run = job.start(*arguments, environment=environment)
            if attempt == 0:
                was_killed = _kill(victim, cluster, run, rng)
            done = job.finish(run)
        finally:
            cluster.shutdown()
        codes.append(done.returncode)
        if done.returncode == 0:
            break
    print(f"{victim}, seed {seed}: exit codes {codes}")
    # A round without a kill shows nothing.
    assert was_killed, f"{victim} was never there, or gone before its moment; take another FAULT_SEED"
    if DRIVERS.get(victim) in (signal.SIGTERM, signal.SIGINT):
        assert codes[0] == EXIT_INTERRUPTED
    assert codes[-1] == 0, done.stdout + done.stderr
    assert_whole(str(output), undisturbed.expected)
