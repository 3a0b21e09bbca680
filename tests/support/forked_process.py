"""A program in a process that is forked instead of started."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from tests.support.fork_server import ForkServer, ask
from tests.support.forks import DUMP_SIGNAL, read_line


class ForkedProcess:
    """A running module or script in a session of its own.

    It has the methods of `subprocess.Popen` that tests use.
    """

    def __init__(
        self,
        server: ForkServer,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: str,
        terminal: int | None = None,
    ) -> None:
        """Fork it.

        Args:
            server: Forks it.
            arguments: The script or the name of the module, and its arguments.
            environment: All its variables.
            folder: Its working folder.
            terminal: The descriptor of its standard input, output and error in place of pipes.
        """
        self.args = list(arguments)
        self.returncode: int | None = None
        server.wait_until_ready()
        asked = {"arguments": self.args, "environment": dict(environment), "folder": folder}
        if terminal is not None:
            self._connection = ask(server.socket, [terminal] * 3, **asked)
        else:
            out, err = os.pipe(), os.pipe()
            try:
                self._connection = ask(server.socket, [0, out[1], err[1]], **asked)
            finally:
                os.close(out[1])
                os.close(err[1])
            self.stdout, self.stderr = (os.fdopen(pipe[0]) for pipe in (out, err))
        self.pid = int(read_line(self._connection))

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process ends, and return its exit code; that of a signal is negative.

        Raises:
            subprocess.TimeoutExpired: If it still runs after so many seconds.
        """
        if self.returncode is None:
            # A blocking socket with time-out 0 doesn't block.
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(read_line(self._connection))
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read the standard output and error to their ends, wait, and return both.

        A process that doesn't end in time is killed with its process group.

        Raises:
            subprocess.TimeoutExpired: If the process still runs after so many seconds. Its notes are what the
                process has printed, with what each of its threads was doing.
        """
        found: dict[IO[str], str] = {}

        def read(stream: IO[str]) -> None:
            with stream:
                found[stream] = stream.read()

        readers = [
            threading.Thread(target=read, args=[stream], daemon=True)
            for stream in (self.stdout, self.stderr)
            if not stream.closed
        ]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self.send_signal(DUMP_SIGNAL)
            with suppress(subprocess.TimeoutExpired):
                self.wait(2)
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            for reader in readers:
                reader.join(10)
            for printed in found.values():
                error.add_note(printed)
            raise
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return found.get(self.stdout, ""), found.get(self.stderr, "")

    def send_signal(self, number: int) -> None:
        """Send a signal to the process unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the process unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM to the process unless it has ended."""
        self.send_signal(signal.SIGTERM)
