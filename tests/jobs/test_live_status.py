"""`shopframe status --watch` shows the state again and again, until all is done or somebody stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actors.storage.object_store import ObjectStore
from jobs.run.live_status import status_line, watch_status
from jobs.run.output_status import output_status
from tests.conftest import REPO_ROOT
from tests.support.committed import Found, write_output
from tests.support.in_process import run_in_process
from tests.support.terminal import Terminal

BOX = (0.1, 0.1, 0.2, 0.4)

TWO = {"a": {"f": [Found(BOX)]}, "b": {"g": [Found(BOX)]}}
THREE = {**TWO, "c": {"h": [Found(BOX)]}}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output with two of three shards."""
    write_output(ObjectStore(str(tmp_path)), TWO)
    record = json.loads((tmp_path / "run.json").read_text())
    record["plan"]["shards"] = 3
    (tmp_path / "run.json").write_text(json.dumps(record))
    return tmp_path


def test_at_a_terminal_the_summary_is_drawn_again_in_place_until_all_is_done(output: Path):
    terminal = Terminal("status", "--output", output, "--watch", "--every", "1")
    screen = terminal.watch(until=lambda screen: "Ctrl-C ends the watch" in screen)
    assert "3 = 2 done + 0 failed + 1 pending" in screen
    write_output(ObjectStore(str(output)), THREE)
    assert terminal.end() == 0
    last = terminal.screens[-1]
    assert "3 = 3 done + 0 failed + 0 pending" in last
    assert "pending" not in last.replace("0 pending", "")
    assert "Ctrl-C" not in last
    assert "next: all done" in last


def test_elsewhere_it_prints_lines_and_an_interrupt_ends_it_with_130(output: Path):
    command = [sys.executable, "-m", "jobs.cli", "status", "--output", output, "--watch"]
    process = subprocess.Popen(
        [*map(str, command)],
        cwd=REPO_ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "2 of 3 shards done, 0 failed, 2 frames, 2 persons\n"
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert rest == ""
    assert "Traceback" not in said


def test_a_store_that_is_out_of_reach_for_a_while_does_not_end_the_watch(output: Path):
    store = ObjectStore(str(output))
    looks: list[Any] = [output_status(store), ConnectionError("no route"), output_status(store)]
    write_output(store, THREE)
    looks.append(output_status(store))
    text, waited = StringIO(), list[float]()

    def look() -> dict[str, Any]:
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    watch_status(Console(file=text, width=200), look, 7.0, waited.append)
    lines = text.getvalue().splitlines()
    assert lines[0] == lines[2] == "2 of 3 shards done, 0 failed, 2 frames, 2 persons"
    assert "no route" in lines[1]
    assert lines[1].endswith("trying again")
    assert lines[3] == "3 of 3 shards done, 0 failed, 3 frames, 3 persons"
    assert lines[-1].startswith("next: all done")
    assert waited == [7.0, 7.0, 7.0]


def test_the_line_says_who_waits_for_gemini():
    status = {
        "shards": {"done": 1200, "total": 1300, "failed": 2},
        "frames": {"total": 9},
        "persons": {"kept": 1},
        "quota": {"persons_waiting": 1},
    }
    said = "1,200 of 1,300 shards done, 2 failed, 9 frames, 1 person, 1 person waits for Gemini"
    assert status_line(status) == said


def test_json_and_watch_exclude_each_other(output: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    assert run_in_process(monkeypatch, "status", "--output", output, "--json", "--watch") == 2
    assert "--json and --watch exclude each other" in capsys.readouterr().err
