"""A shard that kills its worker fails, and the other shards are done, also those that travel with it."""

from __future__ import annotations

import json

import pytest

from tests.support import job
from tests.support.job import Models

POISON = """
import os
import signal
import sys
from pathlib import Path

from actors.detect.shard_detector import ShardDetector
from jobs.run import work_on_ray
from jobs.cli import main

FAULT = Path(__file__).with_name("fault")


class Poisoned(ShardDetector):
    def detect(self, block, report_progress):
        if block.task.shard.shard_id == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        if block.task.shard.shard_id == "e" and not FAULT.exists():
            FAULT.touch()
            raise RuntimeError("a fault that passes")
        return super().detect(block, report_progress)


work_on_ray.ShardDetector = Poisoned
main(sys.argv[1:])
"""


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_shard_that_kills_its_worker_fails_alone(models: Models, tmp_path):
    source, output, script = tmp_path / "in", tmp_path / "out", tmp_path / "poisoned.py"
    names = "abcdefghijklmnop"
    job.write_shards(source, names, frames=1)
    script.write_text(POISON)
    options = [*models.options(smolvlm=False), "--set", "run.max_attempts=2"]
    options += ["--set", "detector.actors=1", "--set", "run.infrastructure_pause_s=0"]
    done = job.finish(job.start_program(script, "annotate", "--input", source, "--output", output, *options))
    assert done.returncode == 1, done.stdout + done.stderr
    found = job.records(output)
    assert {name: record["state"] for name, record in found.items()} == {
        name: "failed" if name == "b" else "done" for name in names
    }
    assert "its worker died 2 times on this shard" in found["b"]["error"]
    # Two shards were in each parcel, so a death or a fault of one stopped the other one, too.
    lines = map(json.loads, (output / "processing.log").read_text().splitlines())
    again = [line["shards"] for line in lines if line["message"].endswith("are tried again")]
    assert [set(shards) for shards in again] == [{"a", "b", "e", "f"}]
    assert "its worker died with this shard and 1 more" in again[0]["a"]
    assert "not begun after a fault of another shard" in again[0]["f"]
    assert job.progress(output)["run"]["shards_failed"] == 1
