"""A run whose driver or detector is killed ends with the same rows as an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import job, without_ray
from tests.support.job import Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def undisturbed(models: Models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    source, output = folder / "in", folder / "out"
    job.write_shards(source, "abcdef", frames=6)
    options = models.options(smolvlm=False)
    without_ray.annotate(source, output, *options)
    return SimpleNamespace(source=source, output=output, options=options)


def assert_same_rows(output: Path, expected: Path) -> None:
    for kind in ("frames", "persons"):
        assert job.table(output, kind).to_pylist() == job.table(expected, kind).to_pylist(), kind


def test_a_driver_killed_over_and_over_loses_and_repeats_nothing(undisturbed, tmp_path):
    output = tmp_path / "out"
    rng = random.Random(5)
    committed: dict[str, str] = {}
    for _ in range(2):
        wanted = len(committed) + 1
        process = job.start(
            "annotate", "--input", undisturbed.source, "--output", output, *undisturbed.options
        )
        job.wait_for(lambda wanted=wanted: len(list((output / "commits").glob("*.json"))) >= wanted, process)
        time.sleep(rng.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        job.finish(process)
        # Workers outlive their driver for a moment, and what they commit in that time counts too.
        found = job.attempts(output)
        assert committed.items() <= found.items()
        committed = found
    without_ray.annotate(undisturbed.source, output, *undisturbed.options)
    found = job.attempts(output)
    assert committed.items() <= found.items()
    assert len(found) == 6
    assert_same_rows(output, undisturbed.output)


@pytest.mark.long
def test_a_detector_that_is_killed_is_replaced(undisturbed, tmp_path):
    output = tmp_path / "out"
    options = undisturbed.options
    before = job.ray_workers("MapBatches(detect)")
    process = job.start("annotate", "--input", undisturbed.source, "--output", output, *options)
    detectors = job.wait_for(lambda: job.ray_workers("MapBatches(detect)") - before, process)
    assert detectors
    os.kill(detectors.pop(), signal.SIGKILL)
    done = job.finish(process)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_rows(output, undisturbed.output)
