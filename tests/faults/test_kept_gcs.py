"""The GCS of a cluster, or the whole head, is killed and comes back with its state, which it keeps in Redis.

Promise: a run goes on meanwhile, without being started again, and leaves what an undisturbed run leaves.
"""

from __future__ import annotations

import os
import random
import socket
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.redis_server import redis_server
from tests.support import job, ray_cluster, without_ray
from tests.support.fault_rounds import ROUNDS, SEED
from tests.support.job import Models
from tests.support.outcomes import assert_whole, outcome

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800), pytest.mark.long]

KILLS = min(max(2, ROUNDS), 10)

DOWN_S = (0.0, 10.0)
"""How long the GCS is away, in seconds: at least, and at most. Ray gives up after a minute by default."""

_NODE = f"--object-store-memory={100 << 20}", "--num-gpus=0", "--node-ip-address=127.0.0.1"

_HEAD_STARTS = 10

_ALONE = "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"
"""Runs a command that sees only its own processes, as on a machine of its own, and ends them with itself."""

_RUN_ON_A_NODE = """
python=$1 address=$2; shift 2
"$python" -m ray.scripts.scripts start --address="$address" --num-cpus=3 "$@" || exit $?
"$python" -m jobs.annotate $RUN
exit $?
"""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    with redis_server(tmp_path) as address:
        yield address


def test_a_run_goes_on_while_the_gcs_is_killed_and_restarted_with_its_state(
    models: Models, redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    draws = random.Random(SEED)
    source, undisturbed, output = (tmp_path / name for name in ("in", "undisturbed", "out"))
    job.write_shards(source, "abcdefghijklmnopqrst", frames=4)
    options = [*models.options(), "--set", "output.person_json=files"]
    without_ray.annotate(source, undisturbed, *options)
    port = _free_port()
    with monkeypatch.context() as patch:
        patch.setenv("RAY_REDIS_ADDRESS", redis)
        cluster = ray_cluster.new_cluster(num_cpus=1, gcs_server_port=port)
    head = cluster.head_node
    assert head is not None
    away = []
    try:
        ray_cluster.add_node(cluster, num_cpus=3)
        run = job.start(
            *("annotate", "--input", source, "--output", output, *options),
            environment={"RAY_ADDRESS": str(cluster.address)},
        )
        for kill in range(KILLS):
            # One kill comes after each of the first commits.
            assert job.wait_for(lambda before=kill: len(job.records(output)) > before, run)
            assert run.poll() is None, "the run ended before the kill"
            head.kill_gcs_server()
            away.append(draws.uniform(*DOWN_S))
            time.sleep(away[-1])
            head.start_gcs_server()
        done = job.finish(run)
    finally:
        cluster.shutdown()
    print(f"seed {SEED}: the GCS was away for {', '.join(f'{s:.1f} s' for s in away)}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_whole(str(output), outcome(str(undisturbed)))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _machine(log: Path, *command: object, **variables: str) -> subprocess.Popen[str]:
    """Start what runs on one machine."""
    with log.open("w") as said:
        return subprocess.Popen(
            [*_ALONE, *map(str, command)],
            cwd=job.REPO_ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(job.REPO_ROOT),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
                "RAY_USAGE_STATS_ENABLED": "0",
                # On a busy machine a head takes longer to start than Ray waits by default, which is a minute.
                "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
                **variables,
            },
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def _start_head(log: Path, port: int, redis: str) -> subprocess.Popen[str]:
    """Start the head, and again if that fails, as a service manager does: Ray waits 30 s for its node."""
    ray_start = sys.executable, "-m", "ray.scripts.scripts", "start"
    options = "--head", "--block", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"
    for _ in range(_HEAD_STARTS):
        head = _machine(log, *ray_start, *options, *_NODE, RAY_REDIS_ADDRESS=redis)
        while head.poll() is None:
            if "Ray runtime started" in log.read_text():
                return head
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def _kill(machine: subprocess.Popen[str]) -> None:
    machine.kill()
    machine.wait()


def test_a_run_on_another_machine_goes_on_while_the_head_is_lost_and_started_again(
    models: Models, redis: str, tmp_path: Path
):
    if subprocess.run([*_ALONE, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to make a namespace of processes")
    source, undisturbed, output = (tmp_path / name for name in ("in", "undisturbed", "out"))
    job.write_shards(source, string.ascii_lowercase, frames=4)
    options = [*models.options(), "--set", "output.person_json=files"]
    without_ray.annotate(source, undisturbed, *options)
    port, log = _free_port(), tmp_path / "run.log"
    given = f"--input {source} --output {output} --set ray.address=127.0.0.1:{port} {' '.join(options)}"
    machines = [_start_head(tmp_path / "head.log", port, redis)]
    try:
        node = sys.executable, f"127.0.0.1:{port}", *_NODE
        run = _machine(log, "bash", "-c", _RUN_ON_A_NODE, "run", *node, RUN=given)
        machines.append(run)
        assert job.wait_for(lambda: job.records(output), run), log.read_text()
        assert len(job.records(output)) < len(string.ascii_lowercase), "the run ended before the kill"
        _kill(machines[0])
        machines.append(_start_head(tmp_path / "head-again.log", port, redis))
        assert run.wait(timeout=1200) == 0, log.read_text()
    finally:
        for machine in machines:
            _kill(machine)
    assert_whole(str(output), outcome(str(undisturbed)))
