"""The script that tests run in place of `export_checkpoint.py`: it forks that one, with ultralytics imported.

The import takes most of the time in which a network is exported. A checkpoint that may run code is left to
the program itself, because ultralytics reads that setting when it is imported.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

EXPORT_SCRIPT = Path(__file__)

SOCKET_VARIABLE = "SHOPFRAME_TEST_EXPORT_SOCKET"
"""The variable with the path at which programs are forked that have imported ultralytics."""

_PROGRAM = str(Path(__file__).resolve().parents[2] / "actors/detect/export_checkpoint.py")


def _fork() -> int:
    """Fork the program with the arguments of this process, and return its exit code when it has ended."""
    arguments = [_PROGRAM, *sys.argv[1:]]
    asked = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET_VARIABLE])
        socket.send_fds(connection, [json.dumps(asked).encode() + b"\n"], [0, 1, 2])
        with connection.makefile() as lines:
            _process_id, code = next(lines), next(lines)
    return int(code)


if __name__ == "__main__":
    if sys.argv[1] != "export" or "ULTRALYTICS_SAFE_LOAD" in os.environ:
        os.execv(sys.executable, [sys.executable, _PROGRAM, *sys.argv[1:]])
    sys.exit(_fork())
