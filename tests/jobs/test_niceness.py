"""Where cores are short, detectors give way to the workers behind them."""

from __future__ import annotations

import os
import sys

import pytest

from tests.support import job
from tests.support.job import Models


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_detectors_of_a_local_run_have_a_larger_niceness_than_annotators(models: Models, tmp_path):
    job.write_shards(tmp_path / "in", "ab")
    before = job.ray_workers("")

    def niceness(title: str) -> set[int]:
        found = job.ray_workers(title) - before
        return {os.getpriority(os.PRIO_PROCESS, pid) for pid in found}

    # Workers that tests fork don't have the niceness that Ray starts workers with.
    arguments = ["--input", tmp_path / "in", "--output", tmp_path / "out", *models.options()]
    run = job.start_command([sys.executable, "-m", "jobs.annotate", *arguments], own_ray=True)
    base = os.nice(0)
    expected = {min(19, base + 15)}, {min(19, base + 5)}
    assert job.wait_for(lambda: (niceness("(detect)"), niceness("(annotate)")) == expected, run)
    done = job.finish(run)
    assert done.returncode == 0, done.stderr
