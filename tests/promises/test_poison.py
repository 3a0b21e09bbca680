"""A shard that kills its worker fails, and the other shards are done."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import REPO_ROOT
from tests.support import job
from tests.support.job import Models

POISON = """
import os
import signal
import sys

from actors.detect.shard_detector import ShardDetector
from jobs.run import work_on_ray
from jobs.cli import main


class Poisoned(ShardDetector):
    def detect(self, block, report_progress):
        if block.task.shard.shard_id == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().detect(block, report_progress)


work_on_ray.ShardDetector = Poisoned
main(sys.argv[1:])
"""


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_shard_that_kills_its_worker_fails_alone(models: Models, tmp_path):
    source, output, script = tmp_path / "in", tmp_path / "out", tmp_path / "poisoned.py"
    job.write_shards(source, "abc")
    script.write_text(POISON)
    options = [*models.options(smolvlm=False), "--set", "run.max_attempts=2"]
    done = job.finish(
        job.start_command(
            [sys.executable, script, "annotate", "--input", source, "--output", output, *options],
            environment={"PYTHONPATH": str(REPO_ROOT)},
        )
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = job.records(output)
    assert {name: record["state"] for name, record in found.items()} == {
        "a": "done",
        "b": "failed",
        "c": "done",
    }
    assert "its worker died 2 times on this shard" in found["b"]["error"]
    assert job.progress(output)["run"]["shards_failed"] == 1
