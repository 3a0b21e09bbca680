"""Whatever process of a run is killed, and when, the output is that of an undisturbed run.

Promise: a kill costs the shards in progress and the requests to Gemini in flight, and nothing else. Rounds
kill a detector, an annotator, Gemini's actor, a commit, a raylet, the GCS or the driver at random moments,
or stop the driver by SIGTERM or SIGINT. The same command is then given until it ends with exit code 0.

`FAULT_SEED` and `FAULT_ROUNDS` choose other draws and more of them; `make torture` runs many.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import string
import subprocess
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.command import EXIT_CONFIG, EXIT_INTERRUPTED
from tests.servers.gemini_server import KEY, gemini_server
from tests.support import gemini_job, job, ray_cluster, without_ray
from tests.support.fault_rounds import ROUNDS, SEED
from tests.support.job import Models
from tests.support.outcomes import assert_whole, outcome

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3600)]

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
TRIES = 5
"""How often a run is begun at most, each with an earlier moment, until its victim was there to be killed."""
RUNS = 6
"""How often the command is given at most, with the kill."""


@pytest.fixture(scope="module")
def server():
    with gemini_server() as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(models: Models, server, tmp_path_factory):
    """An input, and what a run on it leaves that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job.write_shards(folder / "in", "abcdef", frames=4)
    # How persons share requests, and so their tokens, depends on who waits when.
    asked = {"requests_per_minute": 1000, "persons_per_request": 1}
    gemini = gemini_job.options(server.base_url, requests_per_day=None, **asked)
    options = [*models.options(), *gemini]
    options += ["--set", "run.infrastructure_pause_s=0", "--set", "output.person_json=files"]
    without_ray.annotate(folder / "in", folder / "out", *options)
    expected = outcome(str(folder / "out"))
    assert len(expected["annotations/gemini"]) == len(expected["annotations/smolvlm"]) > 0
    return SimpleNamespace(source=folder / "in", options=options, expected=expected)


@pytest.fixture(scope="module")
def lives(undisturbed, tmp_path_factory) -> dict[str, float]:
    """How many seconds after the first detector has started each victim is last seen, on this machine."""
    output = tmp_path_factory.mktemp("lives") / "out"
    cluster = ray_cluster.new_cluster(num_cpus=2)
    last = dict.fromkeys(WORKERS, 0.0)
    try:
        before = job.ray_workers("")
        run = job.start(
            "annotate", "--input", undisturbed.source, "--output", output, *undisturbed.options,
            environment={"RAY_ADDRESS": str(cluster.address), "GEMINI_API_KEY": KEY},
        )  # fmt: skip
        job.wait_for(lambda: ray_cluster.actors(cluster, "detect"), run)
        began = time.monotonic()
        while run.poll() is None:
            seen = {victim for victim, title in WORKERS.items() if job.ray_workers(title) - before}
            last |= dict.fromkeys(seen, time.monotonic() - began)
            time.sleep(0.05)
        ended = time.monotonic() - began
        done = job.finish(run)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    return last | dict.fromkeys((*NODES, *DRIVERS), ended)


def _kill(victim: str, cluster, run, after_s: float, before: set[int]) -> bool:
    """Kill the victim when it is there, and return whether it was. Workers of `before` are of other runs."""

    def present() -> set[int]:
        return job.ray_workers(WORKERS[victim]) - before

    job.wait_for(lambda: ray_cluster.actors(cluster, "detect"), run)
    time.sleep(after_s)
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
    if run.poll() is not None:
        return False
    if victim == "raylet":
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    else:
        cluster.head_node.kill_gcs_server()
    return True


def _victims() -> list[tuple[str, int]]:
    """Return whom to kill, with the seed of the moment.

    There is no short round: each takes a cluster of its own, and `tests/promises` kills drivers, detectors
    and nodes.
    """
    return [(victim, SEED + n) for n in range(1, 1 + ROUNDS) for victim in VICTIMS]


@pytest.mark.parametrize(("victim", "seed"), _victims())
def test_a_kill_costs_only_what_was_in_progress(
    victim: str, seed: int, undisturbed, lives, server, tmp_path: Path
):
    output = tmp_path / "out"
    arguments = ["annotate", "--input", undisturbed.source, "--output", output, *undisturbed.options]
    after_s = random.Random(f"{victim} {seed}").uniform(0, 0.9 * lives[victim])

    def give_the_command(kills: bool) -> tuple[subprocess.CompletedProcess[str], bool]:
        # A cluster of its own, because it may not survive.
        cluster = ray_cluster.new_cluster(num_cpus=2)
        try:
            if victim == "raylet":
                ray_cluster.add_node(cluster, num_cpus=3)
            environment = {"RAY_ADDRESS": str(cluster.address), "GEMINI_API_KEY": KEY}
            before = job.ray_workers("")
            run = job.start(*arguments, environment=environment)
            was_killed = kills and _kill(victim, cluster, run, after_s, before)
            return job.finish(run), was_killed
        finally:
            cluster.shutdown()

    for _ in range(TRIES):
        done, was_killed = give_the_command(kills=True)
        # A driver may have ended just before its signal.
        if was_killed and (victim not in DRIVERS or done.returncode != 0):
            break
        assert done.returncode == 0, "nobody was killed: " + done.stdout + done.stderr
        # The victim was gone sooner than in the run that was watched: another run, and an earlier moment.
        shutil.rmtree(output)
        after_s /= 2
    else:
        pytest.fail(f"{victim} was never there, or gone before its moment")
    first, codes = done, [done.returncode]
    while codes[-1] not in (0, EXIT_CONFIG) and len(codes) < RUNS:
        done, _ = give_the_command(kills=False)
        codes.append(done.returncode)
    print(f"{victim}, seed {seed}: killed after {after_s:.1f} s, exit codes {codes}")
    assert codes[-1] != EXIT_CONFIG, "a death is no wrong setting: " + done.stderr
    if DRIVERS.get(victim) in (signal.SIGTERM, signal.SIGINT):
        assert codes[0] == EXIT_INTERRUPTED, first.stdout + first.stderr
    assert codes[-1] == 0, done.stdout + done.stderr
    assert_whole(str(output), undisturbed.expected)


MANY = 40
"""Number of workers that are killed in one run."""
PAUSE_S = 2.0
"""The longest time between two of these kills."""


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_many_kills_in_one_run(seed: int, undisturbed, server, tmp_path: Path):
    output, rng = tmp_path / "out", random.Random(f"many {seed}")
    source, expected = tmp_path / "in", tmp_path / "expected"
    job.write_shards(source, string.ascii_letters, frames=8)
    # The same shard may lose many workers, and is still not to blame.
    options = [*undisturbed.options, "--set", "run.max_attempts=20"]
    options += ["--set", "run.max_worker_starts=100"]
    without_ray.annotate(source, expected, *options)
    killed: Counter[str] = Counter()
    cluster = ray_cluster.new_cluster(num_cpus=4)
    try:
        before = job.ray_workers("")
        run = job.start(
            "annotate", "--input", source, "--output", output, *options, "--set", "detector.actors=2",
            environment={"RAY_ADDRESS": str(cluster.address), "GEMINI_API_KEY": KEY},
        )  # fmt: skip
        job.wait_for(lambda: ray_cluster.actors(cluster, "detect"), run)
        while killed.total() < MANY and run.poll() is None:
            time.sleep(rng.uniform(0, PAUSE_S))
            victim = rng.choice(sorted(WORKERS))
            for pid in sorted(job.ray_workers(WORKERS[victim]) - before)[:1]:
                os.kill(pid, signal.SIGKILL)
                killed[victim] += 1
        done = job.finish(run)
    finally:
        cluster.shutdown()
    print(f"many, seed {seed}: killed {dict(killed)}, exit code {done.returncode}")
    assert killed.total() > 1
    assert done.returncode == 0, done.stdout + done.stderr
    assert_whole(str(output), outcome(str(expected)))
