"""What a run's session with Ray leaves as it was."""

from __future__ import annotations

import sys

import pytest

from tests.support import job, ray_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

_SESSION = """
import os
import signal

from jobs.run.ray_session import ray_session
from jobs.settings import load_settings

signal.signal(signal.SIGTERM, lambda *_: print("heard", flush=True))
with ray_session(load_settings((), []).settings):
    os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
print("went on")
"""


def test_sigterm_is_heard_during_a_session_and_after_it():
    """What follows can take an hour, such as a consolidation, and an interrupted run says so."""
    environment = {"RAY_ADDRESS": ray_cluster.address()}
    done = job.finish(job.start_command([sys.executable, "-c", _SESSION], environment))
    assert (done.returncode, done.stdout.split("\n")) == (0, ["heard", "heard", "went on", ""]), done.stderr
