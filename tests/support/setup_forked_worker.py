"""The script that the tests' raylets run instead of Ray's `setup_worker.py`: it asks for a forked worker.

It imports little, because it runs once for each worker. A worker that Ray starts before the server listens
starts in Ray's own way.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

SETUP_SCRIPT = Path(__file__)

SOCKET_VARIABLE = "SHOPFRAME_TEST_WORKER_SOCKET"

_CONTEXT = "--serialized-runtime-env-context="


def _ask(arguments: list[str], environment: dict[str, str]) -> bool:
    """Return whether a worker was forked."""
    asked = {"arguments": arguments, "environment": environment, "folder": os.getcwd()}
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.environ[SOCKET_VARIABLE])
            socket.send_fds(connection, [json.dumps(asked).encode() + b"\n"], [0, 1, 2])
    except OSError:
        return False
    return True


def main() -> None:
    """Start the worker whose command line follows."""
    own = [a for a in sys.argv[1:] if not a.startswith((_CONTEXT, "--language="))]
    context = next((json.loads(a.removeprefix(_CONTEXT)) for a in sys.argv if a.startswith(_CONTEXT)), {})
    if _ask(own, {**os.environ, **context.get("env_vars", {})}):
        return
    from ray._private.workers import setup_worker

    os.execv(sys.executable, [sys.executable, setup_worker.__file__, *sys.argv[1:]])


if __name__ == "__main__":
    main()
