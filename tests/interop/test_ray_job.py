"""A run that is submitted as a job to a real head of Ray, with its token, and whose driver is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import REPO_ROOT

PYTHON = REPO_ROOT / ".venv" / "bin" / "python"
RAY = Path(sys.executable).with_name("ray")
SHARDS = 4

pytestmark = pytest.mark.skipif(
    "FAULT_ROUNDS" not in os.environ, reason="it takes minutes; make torture runs it"
)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _wait_for(found: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 240
    while not (value := found()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return value or found()


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head with the dashboard on loopback; the environment of those who have its token.

    Ray gives a node half a minute to start, which a busy machine may need more than once.
    """
    for _ in range(6):
        with _started(tmp_path_factory.mktemp("head")) as (node, environment):
            listed = [RAY, "job", "list"]
            while not (is_up := subprocess.run(listed, check=False, env=environment).returncode == 0):
                if node.poll() is not None:
                    break
            if is_up:
                yield environment
                return
    pytest.fail("the head did not start in six attempts")


@contextmanager
def _started(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    gcs, dashboard = _free_port(), _free_port()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "PYTHONPATH": str(REPO_ROOT),
        "HOME": str(folder),
    }
    command = [RAY, "start", "--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}"]
    command += ["--dashboard-host=127.0.0.1", "--include-dashboard=true", "--num-cpus=3", "--num-gpus=0"]
    command += [f"--object-store-memory={100 * 2**20}", "--node-ip-address=127.0.0.1"]
    with (folder / "head.log").open("w") as log:
        node = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield node, environment | {"GCS": f"127.0.0.1:{gcs}"}
    finally:
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            node.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def _attempts(output: Path) -> dict[str, str]:
    """Return the attempts that are committed, by their records."""
    paths = (output / "commits").glob("*.json")
    return {path.name: json.loads(path.read_bytes())["attempt_id"] for path in paths}


def _drivers(output: Path) -> set[int]:
    """Return the processes that do the run, which are started by the one that was submitted."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if str(output).encode() in words and words[-3:-1] == [b"--restarts", b"0"]:
                found.add(int(entry.name))
    return found


@pytest.mark.timeout(1200)
def test_a_submitted_run_whose_driver_is_killed_goes_on(head: dict[str, str], tmp_path: Path):
    source, output = tmp_path / "in", tmp_path / "out"
    made = [PYTHON, "-m", "tests.interop.job_input", source, str(SHARDS)]
    options = subprocess.run(
        made, check=True, cwd=REPO_ROOT, env=head, capture_output=True, text=True
    ).stdout.splitlines()
    # Nobody without the token may submit anything.
    stranger = {**head, "RAY_AUTH_TOKEN": "f" * 32}
    submit = [RAY, "job", "submit"]
    refused = subprocess.run(
        [*submit, "--", "true"], check=False, env=stranger, capture_output=True, text=True
    )
    assert refused.returncode != 0
    run = [PYTHON, "-m", "jobs.annotate", "--restarts", "3", "--input", source, "--output", output]
    run += ["--set", f"ray.address={head['GCS']}", *options]
    environment = {"py_executable": str(PYTHON), "env_vars": {"PYTHONPATH": str(REPO_ROOT)}}
    job = subprocess.Popen(
        [*submit, "--runtime-env-json", json.dumps(environment), "--", *map(str, run)],
        env=head, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    first = _wait_for(lambda: _drivers(output), job)
    _wait_for(lambda: list((output / "commits").glob("*.json")), job)
    committed = _attempts(output)
    for driver in first:
        os.kill(driver, signal.SIGKILL)
    said, _ = job.communicate(timeout=400)
    assert job.returncode == 0, said
    assert "the run ended with signal SIGKILL" in said
    found = _attempts(output)
    assert len(found) == SHARDS
    assert committed
    assert committed.items() <= found.items(), "what was committed is not done again"
    subprocess.run([PYTHON, "-m", "jobs.verify", "--output", output], check=True, cwd=REPO_ROOT, env=head)
