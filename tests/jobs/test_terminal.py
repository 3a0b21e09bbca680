"""What the user sees at a terminal: the tests read the screen that a terminal emulator draws."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support import job
from tests.support.job import Models
from tests.support.terminal import Terminal

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


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
    terminal = Terminal(*arguments)
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


def test_interrupted_at_the_keyboard_it_ends_with_130_and_without_a_traceback(arguments):
    terminal = Terminal(*arguments, own_ray=True)
    assert "0/2 shards" in terminal.watch(until=lambda screen: "0/2 shards" in screen)
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end() == 130, terminal.screens[-1]
    assert "Traceback" not in "".join(terminal.screens)
