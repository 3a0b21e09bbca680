"""What the user sees at a terminal: the tests read the screen that a terminal emulator draws."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pyte
import pytest

from tests.conftest import REPO_ROOT
from tests.support import job, ray_cluster
from tests.support.job import Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

COLUMNS, LINES = 110, 40


class Terminal:
    """Run a command at a terminal of its own, with `variables` added to its environment.

    Attributes:
        process: The process of the command.
        screens: The screen after each change so far, the newest last.
    """

    def __init__(self, *arguments: object, **variables: str) -> None:
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self.screens: list[str] = []
        self._terminal, command = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
            cwd=REPO_ROOT,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
            | variables,
            stdin=command,
            stdout=command,
            stderr=command,
            start_new_session=True,
        )
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


@pytest.fixture
def arguments(models: Models, tmp_path):
    job.write_shards(tmp_path / "in", "ab")
    return [
        "annotate",
        "--input",
        tmp_path / "in",
        "--output",
        tmp_path / "out",
        *models.options(smolvlm=False),
    ]


def test_one_display_while_it_runs_and_a_summary_at_the_end(arguments):
    terminal = Terminal(*arguments, RAY_ADDRESS=ray_cluster.address())
    assert terminal.end() == 0
    running = [screen for screen in terminal.screens if "0/2 shards" in screen]
    assert running, terminal.screens[-1]
    for screen in running:
        lines = screen.splitlines()
        assert [line.split()[0] for line in lines[-3:]] == ["frames", "persons", "failed"], screen
        assert screen.count("shards ") <= 2, "the display must be redrawn in place"
    last = terminal.screens[-1]
    assert "0/2 shards" not in last
    assert "2 shards done, 0 failed, 0 postponed, 0 skipped" in last
    assert "\nnext: all done" in last
    assert not [screen for screen in terminal.screens if "WARNING" in screen or "ray::" in screen]


def test_interrupted_at_the_keyboard_it_ends_with_130_and_without_a_traceback(arguments, tmp_path):
    terminal = Terminal(*arguments)
    assert "0/2 shards" in terminal.watch(until=lambda screen: "0/2 shards" in screen)
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end() == 130, terminal.screens[-1]
    assert "Traceback" not in "".join(terminal.screens)
    job.annotate(*(tmp_path / name for name in ("in", "out")), *arguments[5:])
