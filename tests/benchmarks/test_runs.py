"""What a benchmark has started is gone before the next one is measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmarks import __main__ as runner
from tests.conftest import REPO_ROOT

CRASH = """
import subprocess, sys
from pathlib import Path

server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("server").write_text(str(server.pid))
sys.exit(7)
"""

STUBBORN = """
import signal, time
from pathlib import Path

def note(*_):
    Path("interrupted").touch()

signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path("ready").touch()
while True:
    time.sleep(0.05)
"""

RUN = """
import signal, sys
from pathlib import Path
from benchmarks import __main__ as runner

# What is started in the background by a shell would ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
runner.REPOSITORY = Path(sys.argv[1])
runner._run("stubborn", [], Path("figures.jsonl"), 600)
"""


def write(folder: Path, name: str, text: str) -> None:
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / f"{name}.py").write_text(text)


def ends(pid: int) -> bool:
    """Return whether a process ends; one that doesn't is killed.

    One whose parent doesn't ask for its exit code stays as a zombie.
    """
    deadline = time.monotonic() + 60
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                process.kill()
                return False
            time.sleep(0.02)
    return True


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"there is no {path}"
        time.sleep(0.02)


def test_a_server_of_a_benchmark_that_crashes_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, "crash", CRASH)
    monkeypatch.setattr(runner, "REPOSITORY", tmp_path)
    assert runner._run("crash", [], tmp_path / "figures.jsonl", 600) == "exit code 7"
    assert ends(int((tmp_path / "server").read_text()))


def test_a_second_interrupt_ends_a_benchmark_at_once(tmp_path: Path):
    write(tmp_path, "stubborn", STUBBORN)
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO_ROOT)},
        stderr=subprocess.DEVNULL,
    )
    wait_for(tmp_path / "ready")
    (benchmark,) = psutil.Process(run.pid).children()
    run.send_signal(signal.SIGINT)
    wait_for(tmp_path / "interrupted")
    run.send_signal(signal.SIGINT)
    assert ends(benchmark.pid)
    assert run.wait(300) == -signal.SIGINT
