"""Workers of one Ray job are forked from a process that has imported Ray for this job.

Ray's library reads the id of the job and the settings of its node from the environment when it is imported,
so no process can import it for all jobs. The import takes a worker a second of a core, and a run has ten.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections import OrderedDict

from tests.support.forks import Children, become, class_ids_of_the_system, import_all, take_environment

_IMPORTED = (
    "actors.stage_workers",
    "ray.autoscaler._private.autoscaler",
    "ray.data._internal.execution.operators.actor_pool_map_operator",
    "ray.data._internal.execution.streaming_executor",
)

_KEPT = 3
"""Jobs whose processes are kept; a job that asks again later gets a new one."""

_Job = frozenset[tuple[str, str]]


class JobServers:
    """The processes that fork the workers of one job each.

    Args:
        children: The processes that this one has forked.
        own: Sockets that only this process may keep open.
    """

    def __init__(self, children: Children, own: list[socket.socket]) -> None:
        self._children = children
        self._own = own
        self._servers: OrderedDict[_Job, socket.socket] = OrderedDict()

    def forward(self, asked: dict[str, object], streams: list[int]) -> bool:
        """Have a worker forked, by the process of its job.

        Returns:
            Whether this is the worker. Otherwise, this is the process that called.
        """
        job = _job_of(asked)
        if job not in self._servers:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if self._children.fork():
                for other in (*self._own, ours, *self._servers.values()):
                    other.close()
                for stream in streams:
                    os.close(stream)
                _serve(theirs, asked)
                return True
            theirs.close()
            self._servers[job] = ours
            while len(self._servers) > _KEPT:
                self._servers.popitem(last=False)[1].close()
        self._servers.move_to_end(job)
        socket.send_fds(self._servers[job], [json.dumps(asked).encode()], streams)
        for stream in streams:
            os.close(stream)
        return False


def _job_of(asked: dict[str, object]) -> _Job:
    """Return what Ray's library may read when it is imported."""
    environment = asked["environment"]
    assert isinstance(environment, dict)
    return frozenset((name, value) for name, value in environment.items() if name.startswith("RAY_"))


def _serve(requests: socket.socket, first: dict[str, object]) -> None:
    """Fork a worker for each request, until the other end is closed and all workers have ended.

    Returns in the workers only.
    """
    take_environment(first)
    with class_ids_of_the_system():
        import_all(_IMPORTED)
    children = Children()
    asking = [requests]
    while asking or children.running:
        readable = select.select([*asking, *children.running], [], [])[0]
        children.report_ended(readable)
        if requests not in readable:
            continue
        content, streams, _, _ = socket.recv_fds(requests, 1 << 18, 3)
        if not content:
            asking.clear()
            continue
        if children.fork():
            requests.close()
            become(json.loads(content), streams)
            # Ray ends a worker together with its process group.
            os.setpgid(0, 0)
            sys.path[0] = os.path.dirname(sys.argv[0])
            return
        for stream in streams:
            os.close(stream)
    os._exit(0)
