"""Start Python processes by forking one that has imported what they need.

A worker of Ray imports Ray and then torch, transformers and more, which takes up to ten seconds of a core in
a run of the smallest model; `shopframe status` takes more time for its imports than for its work. A process
forked from one that has imported them starts in a fraction of a second. Everything else about the process is
as if it had been started: it runs the same program with its own arguments, environment, folder and streams.

All test processes of a session share the imports: for each kind, the first one that needs it starts a process
that imports, and that forks a server for each test process. It ends with the session.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from tests.support.forks import Children, become, class_ids_of_the_system, import_all, read_line, receive
from tests.support.forks_of_jobs import JobServers

_REPO_ROOT = Path(__file__).resolve().parents[2]

Kind = Literal["commands", "exports", "runs", "workers"]
"""What the processes are: commands that need no Ray, exports of detectors, runs on Ray, or workers of Ray."""

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
    "exports": ("onnxslim", "torchvision", "ultralytics.engine.exporter", "ultralytics.models"),
    "runs": _COMMANDS + _RUNS,
    "workers": _WORKERS,
}


_EXPORTING = {
    "ULTRALYTICS_SAFE_LOAD": "1",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "1",
    "YOLO_VERBOSE": "false",
}
"""Variables that ultralytics reads when it is imported; `export_checkpoint.py` sets them, too."""

_SESSION = "SHOPFRAME_TEST_FORKS"
"""The variable with the process id of the session and its folder, which its test processes inherit."""


def begin_session() -> Callable[[], None]:
    """Begin a session of tests that ends with this process; return a function that removes its files."""
    folder = tempfile.mkdtemp(prefix="shopframe-forks-")
    os.environ[_SESSION] = f"{os.getpid()} {folder}"
    return partial(shutil.rmtree, folder, ignore_errors=True)


def _importing(kind: Kind) -> str:
    """Return the path at which the process listens that imports for the session; start it if needed.

    It can be connected to at once, and answers when it has imported everything.
    """
    session, _, folder = os.environ[_SESSION].partition(" ")
    path = Path(folder, kind)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if kind == "exports":
        environment |= {**_EXPORTING, "YOLO_CONFIG_DIR": folder}
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))
                listening.listen(64)
                descriptor = listening.fileno()
                subprocess.Popen(
                    [sys.executable, "-m", "tests.support.fork_server", kind, session, str(descriptor)],
                    cwd=_REPO_ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=[descriptor],
                    start_new_session=True,
                )
    return str(path)


class ForkServer:
    """A process that forks others for this one, and the folder with its socket.

    Attributes:
        socket: Path of the socket at which it listens as soon as everything is imported.
    """

    def __init__(self, kind: Kind) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="shopframe-forks-")
        self.socket = str(Path(self._folder.name, "socket"))
        # The process ends when this connection does.
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_importing(kind))
        self._connection.sendall(f"{self.socket}\n".encode())
        self._pid: int | None = None

    def wait_until_ready(self) -> int:
        """Wait until it listens, and return its process id."""
        if self._pid is None:
            self._pid = int(read_line(self._connection))
        return self._pid

    def stop(self) -> None:
        """End the process. The workers of Ray end with their raylets."""
        self._connection.close()
        self._folder.cleanup()


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
            `folder`. Except for workers, the connection brings a line with the process id and, when the
            process has ended, one with its exit code.

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


def _import(kind: Kind, session: int, listening: socket.socket) -> None:
    """Import what a kind needs, and fork a server for each connection until the session ends.

    Returns in the processes only that these servers fork.
    """
    with class_ids_of_the_system() if kind == "runs" else nullcontext():
        import_all(_IMPORTED[kind])
    children = Children()
    ended = os.pidfd_open(session)
    while True:
        readable = select.select([listening, ended, *children.running], [], [])[0]
        if ended in readable:
            os._exit(0)
        children.report_ended(readable)
        if listening not in readable:
            continue
        connection, _ = listening.accept()
        if children.fork():
            os.close(ended)
            listening.close()
            _serve(kind, connection)
            return
        connection.close()


def _serve(kind: Kind, owner: socket.socket) -> None:
    """Fork a process for each connection until the connection to the test process ends.

    Returns in the forked processes only.
    """
    path = read_line(owner).decode().strip()
    children = Children()
    with socket.socket(socket.AF_UNIX) as listening:
        jobs = JobServers(children, [listening, owner])
        listening.bind(f"{path}.bound")
        listening.listen(64)
        # Whoever sees the path can connect.
        os.rename(f"{path}.bound", path)
        owner.sendall(f"{os.getpid()}\n".encode())
        while True:
            readable = select.select([listening, owner, *children.running], [], [])[0]
            if owner in readable:
                os._exit(0)
            children.report_ended(readable)
            if listening not in readable:
                continue
            connection, _ = listening.accept()
            if kind == "workers":
                with connection:
                    asked = receive(connection)
                if jobs.forward(*asked):
                    return
            elif children.fork(connection):
                listening.close()
                owner.close()
                with connection:
                    asked = receive(connection)
                    become(*asked)
                    os.setsid()
                    connection.sendall(f"{os.getpid()}\n".encode())
                    return


def _main(kind: Kind, session: str, listening: str) -> None:
    with socket.socket(fileno=int(listening)) as listened:
        _import(kind, int(session), listened)
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
