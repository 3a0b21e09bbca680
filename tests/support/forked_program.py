"""What scripts call that fork a program from a process which has imported its libraries.

It imports little, because such a script runs in place of each of these programs.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence


def run_forked(path: str, arguments: Sequence[str]) -> int:
    """Fork a program with the environment, folder and streams of this process.

    Args:
        path: Socket of the process that forks.
        arguments: The program and its arguments.

    Returns:
        Its exit code when it has ended.
    """
    asked = {"arguments": list(arguments), "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(asked).encode() + b"\n"], [0, 1, 2])
        with connection.makefile() as lines:
            _process_id, code = next(lines), next(lines)
    return int(code)
