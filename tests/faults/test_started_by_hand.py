"""Three nodes that were started by hand, as docs/operations.md says: one is killed and one is added."""

from __future__ import annotations

import os
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import job, without_ray
from tests.support.job import Models
from tests.support.outcomes import assert_whole, outcome

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800), pytest.mark.long]

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2}


class Machines:
    """The nodes, each of which would be a machine: a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def start(self, name: str, *options: str) -> None:
        """Start a node with `ray start`, and wait until it is up.

        Two that start at the same moment on one machine take the same sockets, and die.
        """
        with (self._folder / f"{name}.log").open("w") as log:
            self._nodes[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options),
                    *("--num-gpus=0", f"--object-store-memory={100 << 20}", "--node-ip-address=127.0.0.1"),
                ],
                env=os.environ | TOKEN | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(job.REPO_ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        deadline = time.monotonic() + 240
        while "Ray runtime started" not in self._log(name) and time.monotonic() < deadline:
            assert self._nodes[name].poll() is None, self._log(name)
            time.sleep(0.1)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def start_head(self) -> None:
        """Start the head, which has no cores."""
        port = self.address.rpartition(":")[2]
        self.start("head", "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")

    def join(self, name: str) -> None:
        """Start another node, on which detectors and annotators may run."""
        resources = '--resources={"detect": 1, "annotate": 1}'
        self.start(name, f"--address={self.address}", "--num-cpus=3", resources)

    def workers(self, name: str) -> set[int]:
        """Return the processes of a node that work for a run."""
        found = job.descendants(self._nodes[name].pid)
        return {pid for pid, title in found.items() if "ray::MapWorker" in title}

    def kill(self, name: str) -> None:
        """Kill all processes of a node at once."""
        node = self._nodes.pop(name)
        for pid in sorted(job.descendants(node.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        """Kill all nodes."""
        for name in sorted(self._nodes, reverse=True):
            self.kill(name)


@pytest.fixture
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    made = Machines(tmp_path_factory.mktemp("machines"))
    yield made
    made.stop()


def test_a_run_over_three_nodes_of_which_one_is_killed_and_one_added_equals_one_over_one_node(
    models: Models, machines: Machines, tmp_path: Path
):
    source, undisturbed, output = (tmp_path / name for name in ("in", "undisturbed", "out"))
    job.write_shards(source, string.ascii_letters[:32], frames=4)
    options = [*models.options(), "--set", "output.person_json=files"]
    without_ray.annotate(source, undisturbed, *options)
    machines.start_head()
    machines.join("first")
    machines.join("second")
    run = job.start_command(
        [
            *(sys.executable, "-m", "jobs.annotate", "--restarts", 10, "--input", source, "--output", output),
            *(*options, "--set", f"ray.address={machines.address}", "--set", "detector.actors=auto"),
            *("--set", "detector.node_resource=detect", "--set", "smolvlm.node_resource=annotate"),
            *("--set", "smolvlm.actors={min: 1, max: 6}"),
        ],
        TOKEN,
    )
    assert job.wait_for(lambda: job.records(output), run)
    # Whichever of them works for the run dies.
    dying = "first" if machines.workers("first") else "second"
    assert machines.workers(dying)
    machines.kill(dying)
    machines.join("third")
    assert job.wait_for(lambda: machines.workers("third"), run), "the node that joined is used"
    done = job.finish(run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it is started again" not in done.stderr
    assert_whole(str(output), outcome(str(undisturbed)))
