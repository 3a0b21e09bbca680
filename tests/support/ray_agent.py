"""The script that the tests' raylets run instead of their two agents. The agents take two seconds of a core.

No test reads what the agent of the dashboard would report, so this script only says that it has no ports. The
agent of runtime environments, which a run on a cluster needs, is forked from a process that has imported Ray.
The raylet ends with its agents, and they with it: when the standard input ends, which is a pipe from it.

It imports little, because it runs twice for each node.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

AGENT_SCRIPT = Path(__file__)

SOCKET_VARIABLE = "SHOPFRAME_TEST_RUN_SOCKET"
"""The variable with the path at which processes are forked that have imported Ray."""

_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
"""What the raylet waits for: files with these names, the id of the node and a port, -1 if nothing listens."""


def _option(name: str) -> str:
    return next(a for a in sys.argv if a.startswith(f"--{name}=")).partition("=")[2]


def _have_no_ports() -> None:
    for name in _PORTS:
        path = Path(_option("session-dir"), f"{name}_{_option('node-id')}")
        written = path.with_name(f"{path.name}.written")
        written.write_text("-1")
        written.rename(path)
    while os.read(0, 1024):
        pass


if __name__ == "__main__":
    if sys.argv[1].endswith("dashboard/agent.py"):
        _have_no_ports()
    else:
        # The folder of a script is where its imports are looked for first.
        from forked_program import run_forked

        sys.exit(run_forked(os.environ[SOCKET_VARIABLE], sys.argv[1:]))
