"""What the processes that fork others have in common: imports, children, and how these become programs."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

DUMP_SIGNAL = signal.SIGUSR1
"""A forked process prints what its threads are doing when it gets this signal."""


class Children:
    """The processes that were forked and haven't ended.

    Attributes:
        running: The process id and connection of each, by a file descriptor that is readable at its end.
    """

    def __init__(self) -> None:
        self.running: dict[int, tuple[int, socket.socket | None]] = {}

    def fork(self, connection: socket.socket | None = None) -> bool:
        """Fork this process, and return whether this is the child.

        Args:
            connection: Is told the exit code, and closed in this process when the child has ended.
        """
        pid = os.fork()
        if pid == 0:
            for descriptor, (_, other) in self.running.items():
                os.close(descriptor)
                if other is not None:
                    other.close()
            self.running.clear()
            return True
        self.running[os.pidfd_open(pid)] = pid, connection
        return False

    def report_ended(self, readable: Iterable[Any]) -> None:
        """Send the exit codes of processes that have ended to those that asked for them, if they wait."""
        for ended in self.running.keys() & set(readable):
            pid, connection = self.running.pop(ended)
            os.close(ended)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if connection is None:
                continue
            with connection:
                try:
                    connection.sendall(f"{code}\n".encode())
                except OSError:
                    continue


def import_all(names: Iterable[str]) -> None:
    """Import modules for good: the garbage collector of no child will touch them and so copy their pages."""
    # Hardly anything that an import makes is garbage, and looking for it takes a fifth of the time.
    gc.disable()
    for name in names:
        import_module(name)
    gc.enable()
    assert threading.active_count() == 1, "only the thread that forks lives on in the others"
    gc.collect()
    gc.freeze()


def read_line(connection: socket.socket) -> bytes:
    """Read a line, after which nothing has arrived yet.

    Raises:
        EOFError: If the other process has ended.
    """
    line = b""
    while not line.endswith(b"\n"):
        more = connection.recv(1)
        if not more:
            raise EOFError("the process that forks others died; see its error above")
        line += more
    return line


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the line with what is asked for at a connection, and the three streams of the process."""
    content, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not content.endswith(b"\n"):
        content += connection.recv(1 << 16)
    return json.loads(content), streams


def become(asked: dict[str, Any], streams: list[int]) -> None:
    """Take over the streams, environment, folder and arguments."""
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    take_environment(asked)
    os.chdir(asked["folder"])
    sys.argv = asked["arguments"]
    faulthandler.register(DUMP_SIGNAL)


def take_environment(asked: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(asked["environment"])


@contextmanager
def class_ids_of_the_system() -> Iterator[None]:
    """Let classes of actors draw their ids from the system and not from Ray's generator of random ids.

    Its state would be copied into the forked processes, which would all draw the same ids.
    """
    import ray.actor

    class Drawn:
        @staticmethod
        def from_random() -> Any:
            return drawn(os.urandom(drawn.size()))

    drawn = ray.actor.ActorClassID
    ray.actor.ActorClassID = Drawn
    try:
        yield
    finally:
        ray.actor.ActorClassID = drawn
