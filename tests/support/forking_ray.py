"""The command `shopframe` with a Ray of its own, which starts as few processes as the tests' cluster."""

from __future__ import annotations

import runpy
import sys

from tests.support.ray_agent import AGENT_SCRIPT
from tests.support.setup_forked_worker import SETUP_SCRIPT


def fork_workers() -> None:
    """Let the Ray that this process starts fork its workers, and start nothing that no test reads."""
    from ray._private import ray_constants

    # Ray joins this name to the path of a folder, and an absolute path stands for itself.
    ray_constants.SETUP_WORKER_FILENAME = str(SETUP_SCRIPT)
    leave_out_unread()


def leave_out_unread() -> None:
    """Let the Ray nodes that this process starts have no dashboard, autoscaler, monitor of logs and agents.

    Ray starts the process of the dashboard even without a dashboard. The three take three seconds of a core,
    and the agents two, in place of which `ray_agent.py` runs.
    """
    from ray._private import services
    from ray._private.node import Node

    def start_nothing(*_: object, **__: object) -> None: ...

    for name in ("start_api_server", "start_monitor", "start_log_monitor"):
        setattr(Node, name, start_nothing)

    # Only the agents are started by this command.
    name = "_build_python_executable_command_memory_profileable"
    setattr(services, name, lambda *_: [sys.executable, "-S", str(AGENT_SCRIPT)])


if __name__ == "__main__":
    fork_workers()
    runpy.run_module("jobs.cli", run_name="__main__", alter_sys=True)
