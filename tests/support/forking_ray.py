"""The command `shopframe` with a Ray of its own, whose workers are forked like those of the cluster."""

from __future__ import annotations

import runpy

from tests.support.setup_forked_worker import SETUP_SCRIPT


def fork_workers() -> None:
    """Let the Ray that this process starts fork its workers."""
    from ray._private import ray_constants

    # Ray joins this name to the path of a folder, and an absolute path stands for itself.
    ray_constants.SETUP_WORKER_FILENAME = str(SETUP_SCRIPT)


if __name__ == "__main__":
    fork_workers()
    runpy.run_module("jobs.cli", run_name="__main__", alter_sys=True)
