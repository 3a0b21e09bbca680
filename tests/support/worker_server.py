"""Start the Python workers of the tests' Ray by forking a process that has imported what they need.

A worker of Ray imports Ray twice and then torch, transformers and more, which takes up to ten seconds of a
core in a run of the smallest model. A process forked from one that has imported them starts in a fraction of
a second. Everything else about the worker is Ray's own: the process runs Ray's script for workers with the
arguments and the environment of the raylet.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from importlib import import_module
from pathlib import Path

SETUP_SCRIPT = Path(__file__).with_name("setup_forked_worker.py")

_REPO_ROOT = Path(__file__).resolve().parents[2]

_IMPORTED = (
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
    "pandas",
    "pyarrow.dataset",
    "s3fs",
    "torchvision",
    "transformers.models.smolvlm.modeling_smolvlm",
    "transformers.models.smolvlm.processing_smolvlm",
)
"""What workers import, except Ray: its library reads the worker's environment when it is imported."""


class WorkerServer:
    """A process that forks workers, and the folder with its socket."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="shopframe-workers-")
        self.socket = str(Path(self._folder.name, "socket"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.worker_server", self.socket],
            cwd=_REPO_ROOT,
            stdin=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def stop(self) -> None:
        """End the process. The workers end with their raylets."""
        assert self._process.poll() is None, "the server of workers died; see its error above"
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def _serve(path: str) -> None:
    """Fork a worker for each connection until standard input ends. Returns in the workers only."""
    for name in _IMPORTED:
        import_module(name)
    assert threading.active_count() == 1, "only the thread that forks lives on in a worker"
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    # Ray ends a worker together with its process group.
                    os.setpgid(0, 0)
                    listening.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _become_worker(connection)
                    return
    sys.exit()


def _become_worker(connection: socket.socket) -> None:
    """Take over the standard streams, environment, folder and arguments of the process that asks."""
    content, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    asked = json.loads(content)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = asked["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)


if __name__ == "__main__":
    _serve(sys.argv[1])
    runpy.run_path(sys.argv[0], run_name="__main__")
