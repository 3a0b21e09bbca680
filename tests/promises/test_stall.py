"""A run whose workers hang reports the stall and ends, and a rerun finishes the shards."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from tests.support import job, without_ray
from tests.support.job import Models


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_stalled_job_names_what_is_stuck_and_a_rerun_finishes_it(models: Models, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    # Large enough that the detector is stopped before it has done them.
    job.write_shards(source, "ab", frames=60)
    options = models.options(smolvlm=False)
    deadlines = ["--set", "run.stall_warning_s=40", "--set", "run.stall_fail_s=50"]
    before = job.ray_workers("MapBatches(detect)")
    process = job.start("annotate", "--input", source, "--output", output, *options, *deadlines)
    stopped = job.wait_for(lambda: job.ray_workers("MapBatches(detect)") - before, process)
    assert stopped
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        done = job.finish(process)
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.count("nothing moved for") == 2, "expected one warning, then the final error"
    assert job.records(output) == {}
    without_ray.annotate(source, output, *options)
    assert {r["state"] for r in job.records(output).values()} == {"done"}
