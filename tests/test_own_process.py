"""Work in several processes: in order, bounded, done even if one of them dies, and over with the parent."""

from __future__ import annotations

import multiprocessing.popen_spawn_posix
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from actors.own_process import map_in_processes
from tests.support import job


def pid_of(_: int) -> int:
    return os.getpid()


def square(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return number * number


def square_or_die(number: int) -> int:
    """Die in a process of several, as if memory were short."""
    if number == 5 and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def sleep_long(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    try:
        time.sleep(600)
    finally:
        Path(folder, "interrupted").touch()


def test_results_are_in_order_and_arguments_are_taken_as_needed():
    taken = []

    def arguments():
        for number in range(7):
            taken.append(number)
            yield number

    results = map_in_processes(square, arguments(), 2)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]
    assert list(results) == [number**2 for number in range(1, 7)]
    assert os.getpid() not in set(map_in_processes(pid_of, range(4), 2))


def test_what_a_function_raises_is_raised_here():
    results = map_in_processes(square, range(5, 10), 2)
    assert [next(results), next(results)] == [25, 36]
    with pytest.raises(ValueError, match="seven"):
        next(results)


def test_the_work_of_a_process_that_died_is_done_here(caplog):
    assert list(map_in_processes(square_or_die, range(12), 2)) == [number**2 for number in range(12)]
    assert caplog.text.count("one of several processes died") == 1


def test_without_processes_the_work_is_done_here(monkeypatch):
    def launch(*_: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.popen_spawn_posix.Popen, "_launch", launch)
    assert list(map_in_processes(square, range(6), 2)) == [number**2 for number in range(6)]


@pytest.mark.parametrize(
    ("end", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_processes_leave_ctrl_c_to_their_parent_and_end_with_it(tmp_path, end, code):
    script = (
        "from actors.own_process import map_in_processes\n"
        "from tests.test_own_process import sleep_long\n"
        f"list(map_in_processes(sleep_long, [{str(tmp_path)!r}] * 2, 2))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    pids: list[int] = []
    try:
        assert job.wait_for(lambda: len([*tmp_path.iterdir()]) == 2, parent)
        pids = [int(path.name) for path in tmp_path.iterdir()]
        # A terminal sends Ctrl-C to all of them.
        (os.killpg if end == signal.SIGINT else os.kill)(parent.pid, end)
        assert parent.wait(60) == code
        deadline = time.monotonic() + 30
        while any(map(_is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(_is_running, pids))
        assert len([*tmp_path.iterdir()]) == 2, "interrupted"
    finally:
        for pid in (parent.pid, *pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
