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


_OTHER_TEST_PROCESS = """
import os
import sys
from tests.support.fork_server import fork_server
from tests.support.forked_process import ForkedProcess

worker = ForkedProcess(fork_server("runs"), [sys.argv[1]], os.environ, ".")
print(worker.stdout.readline(), flush=True)
sys.stdin.read()
worker.kill()
"""

_WORKER = """
import time
import ray._raylet

ray._raylet.setproctitle("ray::MapBatches(pretended)")
print("there", flush=True)
time.sleep(100)
"""


@pytest.mark.ray
def test_a_test_process_finds_its_own_ray_workers_only(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(_WORKER)
    # The process that forks the servers of both is now a child of this one.
    own = job.start_program(script)
    other = subprocess.Popen(
        [sys.executable, "-c", _OTHER_TEST_PROCESS, script],
        cwd=job.REPO_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert own.stdout.readline() == other.stdout.readline() == "there\n"
    try:
        assert job.ray_workers("pretended") == {own.pid}
    finally:
        own.kill()
        other.communicate(timeout=60)


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
