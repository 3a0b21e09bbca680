"""One Ray cluster of real processes for the whole test session; the runs under test connect to it.

Runs on a bucket have a second one. Each starts with the first test that needs it. A run that is killed
together with its Ray, or that must not see other runs, starts a Ray of its own.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers.gemini_server import KEY
from tests.support import fork_server
from tests.support.forking_ray import leave_out_unread
from tests.support.ray_agent import SOCKET_VARIABLE as RUN_SOCKET_VARIABLE
from tests.support.setup_forked_worker import SETUP_SCRIPT, SOCKET_VARIABLE

if TYPE_CHECKING:
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

STORE_BYTES = 200 * 2**20

# The cores that Ray may assign, however many the machine has: enough for the stages of two runs at once.
_CPUS = 8

_NODE_ENVIRONMENT = {
    # The Gemini actor reads the key from its node.
    "GEMINI_API_KEY": KEY,
    # Ray's statistics take a tenth of a core, and no test reads them.
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
}

_started: dict[frozenset[tuple[str, str]], Cluster] = {}

used_at = 0.0
"""When the last test ended that may have used a cluster; `conftest.py` sets it."""

_IDLE_S = 60.0


def forking_environment() -> dict[str, str]:
    """Return the variables with which a Ray node forks its workers and agents, if it runs their scripts."""
    runs = fork_server.fork_server("runs")
    # A worker can be started in Ray's way until then; an agent is only forked.
    runs.wait_until_ready()
    return {SOCKET_VARIABLE: fork_server.fork_server("workers").socket, RUN_SOCKET_VARIABLE: runs.socket}


@contextmanager
def _environment_of_nodes() -> Iterator[None]:
    variables = {**_NODE_ENVIRONMENT, **forking_environment()}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def new_cluster(**head: object) -> Cluster:
    """Start a new cluster with a head node only; the caller shuts it down."""
    from ray.cluster_utils import Cluster

    # These processes also take several hundredths of a core all the time. The runs ask Ray neither for nodes
    # nor for the output of its workers.
    leave_out_unread()
    with _environment_of_nodes():
        return Cluster(
            initialize_head=True,
            head_node_args={
                "object_store_memory": STORE_BYTES,
                "setup_worker_path": str(SETUP_SCRIPT),
                **head,
            },
        )


def add_node(cluster: Cluster, **node: object) -> Node:
    """Add a node to a cluster, with the environment of its head."""
    given = {"object_store_memory": STORE_BYTES, "setup_worker_path": str(SETUP_SCRIPT), **node}
    with _environment_of_nodes():
        return cluster.add_node(**given)


@dataclass(frozen=True, slots=True)
class Actor:
    """An actor that is alive: its id, its process, and the id of its node."""

    id: str
    pid: int
    node: str


def actors(cluster: Cluster, title: str, node: Node | None = None) -> list[Actor]:
    """Return the actors that are alive and whose class has a name with the given text, on one node or any."""
    table = cluster.global_state.actor_table(None).values()
    found = [
        Actor(entry["ActorID"], entry["Pid"], entry["Address"]["NodeID"])
        for entry in table
        if entry["State"] == "ALIVE" and title in entry["ActorClassName"]
    ]
    return [actor for actor in found if node is None or actor.node == node.node_id]


def known_actors(cluster: Cluster) -> set[str]:
    """Return the ids of all actors, also of those that Ray still restarts though their run has ended."""
    return set(cluster.global_state.actor_table(None))


def kill_node(cluster: Cluster, node: Node, workers: list[Actor]) -> None:
    """Kill a node's own processes with SIGKILL and then these workers, as if the machine were gone."""
    cluster.remove_node(node, allow_graceful=False)
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)


def session_cluster() -> Cluster:
    """Return the session's cluster; start it if needed.

    Nodes read credentials of a bucket from their environment, so a test that has set them gets the cluster
    that was started with the same ones.
    """
    known = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    if known not in _started:
        _started[known] = new_cluster(num_cpus=_CPUS)
    return _started[known]


def address() -> str:
    """Return the address of the session's cluster, for `RAY_ADDRESS`; start the cluster if needed."""
    return str(session_cluster().address)


def worker_lines() -> list[dict[str, Any]]:
    """Return the lines of JSON that workers of the session's clusters have logged on their nodes."""
    nodes = [cluster.head_node for cluster in _started.values()]
    files = [path for node in nodes if node for path in Path(node.get_logs_dir_path()).glob("worker-*.err")]
    lines = [line for path in sorted(files) for line in path.read_text(errors="replace").splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"')]


def stop_if_idle() -> None:
    """Stop what no test has used for a minute, because dozens of processes keep a third of a core busy."""
    if time.monotonic() - used_at > _IDLE_S:
        stop()


def stop() -> None:
    """End the session's clusters and the process that forks workers, if they were started."""
    while _started:
        _started.popitem()[1].shutdown()
    fork_server.stop("runs")
    fork_server.stop("workers")
