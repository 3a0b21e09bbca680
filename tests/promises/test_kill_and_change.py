"""Runs that are killed at random moments while wide settings change end like a run that nothing disturbed.

`FAULT_ROUNDS` is the number of kills, and `FAULT_SEED` decides on their moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.servers.gemini_server import KEY, gemini_server
from tests.support import gemini_job, job, without_ray
from tests.support.job import Models

KILLS = int(os.environ.get("FAULT_ROUNDS", "2"))
SEED = int(os.environ.get("FAULT_SEED", "11"))

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900 + 120 * KILLS)]

SHARDS = 6

COSTS = ("input_tokens", "output_tokens", "cost_usd")
"""Columns that depend on which persons were asked about in one request."""


def rows(output: Path, kind: str) -> list[dict[str, Any]]:
    # When Gemini's answer is not there yet, the crop is kept, so whether it was depends on the last commit.
    found = job.table(output, kind)
    return found.drop_columns([n for n in ("crop", *COSTS) if n in found.column_names]).to_pylist()


def consolidated(output: Path) -> list[dict[str, Any]]:
    costs = {f"gemini_{name}" for name in COSTS}
    return [{k: v for k, v in row.items() if k not in costs} for row in job.consolidated(output)]


def documents(output: Path) -> dict[str, Any]:
    return {path: json.loads(content) for path, content in job.bytes_of(output, "json").items()}


def attempts(output: Path) -> int:
    """Return the number of commits so far, of which the records of replaced ones are gone."""
    return sum(record["attempt"] for record in job.records(output).values())


@pytest.mark.long
def test_kills_between_wide_changes_leave_no_trace(models: Models, tmp_path):
    source = tmp_path / "in"
    job.write_shards(source, "abcdef"[:SHARDS], frames=4)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Describe the person once more, in JSON: {schema}")
    changes = [
        [],
        ["--set", f"smolvlm.prompt={prompt}"],
        ["--set", "roi.max_persons=3"],
        ["--set", "schema.attributes.bag={type: boolean}"],
    ]
    settings = list(accumulate(changes))
    rng = random.Random(SEED)
    print(f"{KILLS} kills with FAULT_SEED={SEED}")
    with gemini_server() as server:
        options = [*models.options(), *gemini_job.options(server.base_url, requests_per_minute=1000)]

        undisturbed, output = tmp_path / "undisturbed", tmp_path / "out"

        def start(more: list[str]) -> subprocess.Popen[str]:
            given = ["--input", source, "--output", output, *options, *more]
            return job.start("annotate", *given, environment={"GEMINI_API_KEY": KEY})

        without_ray.annotate(source, undisturbed, *options, *settings[-1])
        killed = 0
        for number in range(KILLS):
            before = attempts(output)
            process = start(settings[number * len(settings) // KILLS])
            commits = rng.randrange(SHARDS)
            job.wait_for(lambda most=before + commits: attempts(output) >= most, process)
            time.sleep(rng.uniform(0, 0.5))
            os.kill(process.pid, signal.SIGKILL)
            job.finish(process)
            killed += process.returncode == -signal.SIGKILL
        assert killed, "every run ended before it could be killed"
        done = job.finish(start(settings[-1]))
        assert done.returncode == 0, done.stdout + done.stderr
        answered = gemini_job.answered(server.journal)
    for kind in ("frames", "persons", "annotations/smolvlm", "annotations/gemini"):
        assert rows(output, kind) == rows(undisturbed, kind), kind
    assert documents(output) == documents(undisturbed)
    assert consolidated(output) == consolidated(undisturbed)
    assert job.progress(output)["shards"] == job.progress(undisturbed)["shards"]
    assert answered
    without_ray.command("verify", "--output", output)
