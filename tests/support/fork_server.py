"""Start Python processes by forking one that has imported what they need.

A worker of Ray imports Ray and then torch, transformers and more, which takes up to ten seconds of a core in
a run of the smallest model; `shopframe status` takes more time for its imports than for its work. A process
forked from one that has imported them starts in a fraction of a second. Everything else about the process is
as if it had been started: it runs the same program with its own arguments, environment, folder and streams.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

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
"""What workers import, with the packages that Ray needs, but without Ray: its library reads the id of the job
from the worker's environment when it is imported."""

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
        asked: `arguments`, of which the first is a script or the name of a module, `environment`, `folder`,
            and `is_command`: whether the process runs a module in a session of its own. The connection then
            brings a line with its process id and, when it has ended, one with its exit code.

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
    with _class_ids_of_the_system() if kind == "runs" else nullcontext():
        for name in _IMPORTED[kind]:
            import_module(name)
    assert threading.active_count() == 1, "only the thread that forks lives on in the others"
    gc.collect()
    gc.freeze()
    running: dict[int, tuple[int, socket.socket]] = {}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{path}.bound")
        listening.listen(64)
        # Whoever sees the path can connect.
        os.rename(f"{path}.bound", path)
        while True:
            readable = select.select([listening, sys.stdin, *running], [], [])[0]
            if sys.stdin in readable:
                os._exit(0)
            for ended in running.keys() & set(readable):
                _report(ended, *running.pop(ended))
            if listening not in readable:
                continue
            connection, _ = listening.accept()
            pid = os.fork()
            if pid == 0:
                listening.close()
                for descriptor, (_, other) in running.items():
                    os.close(descriptor)
                    other.close()
                with connection:
                    return _become(connection)
            running[os.pidfd_open(pid)] = pid, connection


def _report(descriptor: int, pid: int, connection: socket.socket) -> None:
    """Send the exit code of a process to the one that asked for it, if that waits for it."""
    os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with connection:
        try:
            connection.sendall(f"{code}\n".encode())
        except OSError:
            return


def _become(connection: socket.socket) -> bool:
    """Take over the streams, environment, folder and arguments, and return whether they name a module."""
    content, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not content.endswith(b"\n"):
        content += connection.recv(1 << 16)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    asked = json.loads(content)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = asked["arguments"]
    if asked["is_command"]:
        os.setsid()
        connection.sendall(f"{os.getpid()}\n".encode())
        return True
    # Ray ends a worker together with its process group.
    os.setpgid(0, 0)
    sys.path[0] = str(Path(sys.argv[0]).parent)
    return False


@contextmanager
def _class_ids_of_the_system() -> Iterator[None]:
    """Let classes of actors draw their ids from the system and not from Ray's generator of random ids.

    Its state would be copied into the forked processes, which would all draw the same ids.
    """
    import ray.actor

    class Drawn:
        @staticmethod
        def from_random() -> Any:
            return drawn(os.urandom(drawn.size()))

    drawn = ray.actor.ActorClassID
    ray.actor.ActorClassID = Drawn
    try:
        yield
    finally:
        ray.actor.ActorClassID = drawn


if __name__ == "__main__":
    if _serve(*sys.argv[1:]):
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
