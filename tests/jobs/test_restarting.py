"""A run whose process dies is started again, as a job on the head of a cluster wants it.

The input is in a store that accepts connections and never answers, so each run waits until it is killed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator

import pytest

from tests.support import job

STARTED_AGAIN = "it is started again"

# The command line, whose work is replaced: it says what a run on a cluster says, and ends as told.
_ENDS = """
import os
import sys
from pathlib import Path

from actors.errors import ConfigError
from jobs.cli import main
from jobs.run import annotation, supervision

MARKS = Path(sys.argv[1])


def work(*_):
    with MARKS.open("a+") as file:
        file.write("run\\n")
        file.seek(0)
        end = {ends}[len(file.readlines()) - 1]
    if end == "out of reach":
        raise ConfigError("ray.address: can't use 127.0.0.1:1")
    supervision.say("began")
    if end == "lost":
        os._exit(1)
    if end == "no model":
        raise ConfigError("detector.weights: can't be loaded")
    return end == "done"


annotation.annotate_input = work
main(sys.argv[2:])
"""


@pytest.fixture
def silent_store() -> Iterator[dict[str, str]]:
    """The environment of a run whose store never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        yield {
            **job.NO_RAY,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }


def started(tmp_path, environment, *options: object):
    command = [
        sys.executable,
        "-m",
        "jobs.annotate",
        "--input",
        "s3://bucket/in",
        "--output",
        tmp_path / "out",
    ]
    return job.start_command([*command, "--set", "smolvlm.enabled=false", *options], environment)


def runs_of(process) -> set[int]:
    """Return the processes that do the run, which are children of the one that the test has started."""
    found = job.descendants(process.pid)
    return {pid for pid, title in found.items() if title.split()[-2:] == ["--restarts", "0"]}


def test_a_killed_run_is_started_again_as_often_as_allowed(tmp_path, silent_store):
    process = started(tmp_path, silent_store, "--restarts", 1)
    first = job.wait_for(lambda: runs_of(process), process)
    (killed,) = first
    os.kill(killed, signal.SIGKILL)
    (second,) = job.wait_for(lambda: runs_of(process) - first, process)
    os.kill(second, signal.SIGKILL)
    done = job.finish(process)
    assert done.returncode == 128 + signal.SIGKILL, done.stderr
    assert done.stderr.count(STARTED_AGAIN) == 1
    assert "the run ended with signal SIGKILL" in done.stderr


def test_an_interrupt_ends_the_run_and_is_not_a_death(tmp_path, silent_store):
    process = started(tmp_path, silent_store, "--restarts", 5)
    (run,) = job.wait_for(lambda: runs_of(process), process)
    # Python answers signals by the handler of the command as soon as it has written something.
    job.wait_for((tmp_path / "out").exists, process)
    process.send_signal(signal.SIGTERM)
    done = job.finish(process)
    assert done.returncode == 130, done.stderr
    assert STARTED_AGAIN not in done.stderr
    assert not os.path.exists(f"/proc/{run}")


def test_wrong_settings_are_not_tried_again(tmp_path):
    process = started(tmp_path, job.NO_RAY, "--restarts", 5, "--set", "detector.threads=0")
    done = job.finish(process)
    assert done.returncode == 2
    assert "detector.threads" in done.stderr
    assert STARTED_AGAIN not in done.stderr


def test_restarts_of_a_forced_run_are_refused(tmp_path):
    done = job.finish(started(tmp_path, job.NO_RAY, "--restarts", 2, "--force"))
    assert done.returncode == 2
    assert "each restart would do every shard again" in done.stderr


@pytest.mark.parametrize(
    ("ends", "code", "again"),
    [
        # Ray itself ends a driver that loses its cluster with exit code 1.
        (["lost", "done"], 0, 1),
        (["lost", "out of reach", "done"], 0, 2),
        (["lost", "out of reach", "out of reach"], 2, 2),
        (["some failed"], 1, 0),
        (["out of reach"], 2, 0),
        (["no model"], 2, 0),
        (["lost", "no model"], 2, 1),
    ],
)
def test_a_lost_cluster_is_tried_again_and_what_a_run_says_itself_is_final(tmp_path, ends, code, again):
    script = tmp_path / "ends.py"
    script.write_text(_ENDS.replace("{ends}", repr(ends)))
    command = [sys.executable, script, tmp_path / "marks", "annotate", "--restarts", 2]
    done = job.finish(job.start_command(command, {**job.NO_RAY, "PYTHONPATH": str(job.REPO_ROOT)}))
    assert done.returncode == code, done.stderr
    assert done.stderr.count(STARTED_AGAIN) == again
    assert len((tmp_path / "marks").read_text().splitlines()) == len(ends)
