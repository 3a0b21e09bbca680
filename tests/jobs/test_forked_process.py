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
