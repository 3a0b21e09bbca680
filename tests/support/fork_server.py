"""Start Python processes by forking one that has imported what they need.

A worker of Ray imports Ray and then torch, transformers and more, which takes up to ten seconds of a core in
a run of the smallest model; `shopframe status` takes more time for its imports than for its work. A process
forked from one that has imported them starts in a fraction of a second. Everything else about the process is
as if it had been started: it runs the same program with its own arguments, environment, folder and streams.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from tests.support.forks import Children, become, class_ids_of_the_system, import_all, receive
from tests.support.forks_of_jobs import JobServers

_REPO_ROOT = Path(__file__).resolve().parents[2]

Kind = Literal["commands", "runs", "workers"]
"""What the processes are: commands that need no Ray, runs on Ray, or workers of Ray."""

_COMMANDS = (
    "actors.commit.committer",
    "deltalake",
    "duckdb",
    "jobs.run.annotation",
    "jobs.run.consolidation",
    "jobs.run.output_status",
    "jobs.run.wrap_up",
    "pyarrow.dataset",
    "s3fs",
    "typer.rich_utils",
)

_RUNS = (
    "google.genai",
    "jobs.run.work_on_ray",
    "ray.data._internal.execution.operators.actor_pool_map_operator",
    "ray.data._internal.execution.streaming_executor",
)

_WORKERS = (
    "actors.commit.committer",
    "actors.detect.backends",
    "actors.detect.restored_crops",
    "actors.detect.shard_detector",
    "actors.detect.weights",
    "actors.gemini.backlog.drain",
    "actors.gemini.batch",
    "actors.gemini.online",
    "actors.smolvlm.guided_decoding",
    "actors.smolvlm.shard_annotator",
    "aiohttp",
    "cv2",
    "google.genai",
    "google.protobuf.json_format",
    "google.protobuf.struct_pb2",
    "google.protobuf.timestamp_pb2",
    "jsonschema",
    "logging.config",
    "msgpack",
    "pandas",
    "pdb",
    "pyarrow.dataset",
    "requests",
    "s3fs",
    "torchvision",
    "transformers.models.smolvlm.modeling_smolvlm",
    "transformers.models.smolvlm.processing_smolvlm",
    "uvloop",
    "wcwidth",
)
"""What workers of all jobs import, with the packages that Ray needs, but without Ray."""

_IMPORTED: dict[str, tuple[str, ...]] = {
    "commands": _COMMANDS,
    "runs": _COMMANDS + _RUNS,
    "workers": _WORKERS,
}


class ForkServer:
    """A process that forks others, and the folder with its socket.

    Attributes:
        socket: Path of the socket at which it listens as soon as it has imported everything.
    """

    def __init__(self, kind: Kind) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="shopframe-forks-")
        self.socket = str(Path(self._folder.name, "socket"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", kind, self.socket],
            cwd=_REPO_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def wait_until_ready(self) -> None:
        """Wait until it listens."""
        self._assert_alive()
        while not Path(self.socket).exists():
            try:
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            self._assert_alive()

    def stop(self) -> None:
        """End the process. The workers of Ray end with their raylets."""
        self._assert_alive()
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _assert_alive(self) -> None:
        assert self._process.poll() is None, "the process that forks others died; see its error above"


_started: dict[Kind, ForkServer] = {}


def fork_server(kind: Kind) -> ForkServer:
    """Return the server of this test process; start it if needed."""
    if kind not in _started:
        _started[kind] = ForkServer(kind)
    return _started[kind]


def stop(kind: Kind) -> None:
    """End the server if it was started."""
    if kind in _started:
        _started.pop(kind).stop()


def ask(path: str, streams: list[int], **asked: Any) -> socket.socket:
    """Ask the server that listens at a path to fork a process, and return the connection.

    Args:
        path: Path of the socket.
        streams: File descriptors of its standard input, output and error.
        asked: `arguments`, of which the first is a script or the name of a module, `environment` and
            `folder`. The connection of a module brings a line with its process id and, when it has ended,
            one with its exit code.

    Raises:
        OSError: If no server listens.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(asked).encode() + b"\n"], streams)
    except OSError:
        connection.close()
        raise
    return connection


def _serve(kind: str, path: str) -> bool:
    """Fork a process for each connection until standard input ends.

    Returns:
        Whether the process runs a module. Returns in the forked processes only.
    """
    with class_ids_of_the_system() if kind == "runs" else nullcontext():
        import_all(_IMPORTED[kind])
    children = Children()
    with socket.socket(socket.AF_UNIX) as listening:
        jobs = JobServers(children, listening)
        listening.bind(f"{path}.bound")
        listening.listen(64)
        # Whoever sees the path can connect.
        os.rename(f"{path}.bound", path)
        while True:
            readable = select.select([listening, sys.stdin, *children.running], [], [])[0]
            if sys.stdin in readable:
                os._exit(0)
            children.report_ended(readable)
            if listening not in readable:
                continue
            connection, _ = listening.accept()
            if kind == "workers":
                with connection:
                    asked = receive(connection)
                if jobs.forward(*asked):
                    return False
            elif children.fork(connection):
                listening.close()
                with connection:
                    asked = receive(connection)
                    become(*asked)
                    os.setsid()
                    connection.sendall(f"{os.getpid()}\n".encode())
                    return True


if __name__ == "__main__":
    if _serve(*sys.argv[1:]):
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
