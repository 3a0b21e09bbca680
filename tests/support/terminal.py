"""A terminal of its own for a command, and the screen that a person would see there."""

from __future__ import annotations

import os
import pty
import select
import time
from collections.abc import Callable

import pyte

from tests.support import job

COLUMNS, LINES = 110, 40


class Terminal:
    """Run `shopframe` at a terminal of its own; `own_ray` is that of `job.start`.

    Attributes:
        process: The process of the command.
        screens: The screen after each change so far, the newest last.
    """

    def __init__(self, *arguments: object, own_ray: bool = False) -> None:
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self.screens: list[str] = []
        self._terminal, command = pty.openpty()
        drawn = {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        self.process = job.start(*arguments, environment=drawn, own_ray=own_ray, terminal=command)
        os.close(command)

    def watch(self, until: Callable[[str], bool] = lambda screen: False) -> str:
        """Draw until `until(screen)` is true, the command ends or 240 s have passed; return the screen."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            if not select.select([self._terminal], [], [], 0.2)[0]:
                if self.process.poll() is not None:
                    break
                continue
            open_still = self._draw()
            screen = "\n".join(line.rstrip() for line in self._screen.display).rstrip()
            if not self.screens or self.screens[-1] != screen:
                self.screens.append(screen)
            if until(screen) or not open_still:
                break
        return self.screens[-1]

    def _draw(self) -> bool:
        """Draw what has arrived; return false when no process has the other end open any more.

        What a command writes at once can arrive in pieces. A person doesn't see half of it, so the rest is
        waited for.
        """
        while True:
            try:
                self._stream.feed(os.read(self._terminal, 65536))
            except OSError:
                return False
            if not select.select([self._terminal], [], [], 0.05)[0]:
                return True

    def end(self) -> int:
        """Wait until the command ends, and return its exit code."""
        self.watch()
        os.close(self._terminal)
        return self.process.wait(60)
