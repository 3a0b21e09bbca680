"""Commands that tests fork behave like commands that a user starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support import job
from tests.support.fork_server import fork_server
from tests.support.forked_process import ForkedProcess


def test_a_forked_command_does_what_a_started_one_does(tmp_path):
    arguments = ["status", "--output", tmp_path / "none"]
    forked = job.shopframe(*arguments)
    started = job.finish(job.start_command([sys.executable, "-m", "jobs.cli", *arguments]))
    assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout) == (2, "")
    assert forked.stderr == started.stderr
    assert "no run.json here" in forked.stderr


def test_a_test_process_finds_its_own_processes_only():
    server = "python -m tests.support.fork_server workers"
    tree = {
        2: (1, "pytest"), 3: (1, "pytest"),
        # Imports for both, was started by the first, and forked a server for each.
        20: (2, server), 21: (20, server), 22: (20, server),
        # A process of one job with its workers, for each.
        211: (21, server), 212: (211, "ray::detect"), 221: (22, server), 222: (221, "ray::detect"),
        # A worker that Ray has started in its own way.
        23: (2, "raylet"), 231: (23, "ray::detect"),
    }  # fmt: skip
    parents = {pid: parent for pid, (parent, _) in tree.items()}
    titles = {pid: title for pid, (_, title) in tree.items()}
    assert job.own_processes(2, [21], titles, parents) == {2, 23, 231, 21, 211, 212}
    assert job.own_processes(3, [22], titles, parents) == {3, 22, 221, 222}


def test_a_process_that_takes_too_long_is_killed_and_tells_what_it_did(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text("import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(1)\n")
    process = ForkedProcess(fork_server("commands"), [str(script)], os.environ, str(tmp_path))
    assert process.stdout.readline() == "begun\n"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        process.communicate(timeout=0.1)
    assert 'endless.py", line 4 in <module>' in "".join(caught.value.__notes__)
    assert process.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_forked_process_has_its_own_session_and_ends_by_signals(number, tmp_path):
    server = fork_server("commands")
    process = ForkedProcess(
        server,
        ["http.server", "0", "--bind", "127.0.0.1"],
        os.environ,
        str(tmp_path),
    )
    assert process.poll() is None
    assert os.getsid(process.pid) == process.pid
    assert process.pid in job.descendants(server.wait_until_ready())
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(number)
    done = job.finish(process)
    assert done.returncode == process.poll() == -number
