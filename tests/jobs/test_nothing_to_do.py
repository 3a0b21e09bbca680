"""A run with nothing to do: it imports neither Ray nor a model library, and reads each record once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from actors.storage.object_store import ObjectStore
from jobs.run.resolve import resolve
from jobs.settings import load_settings
from tests.support import job
from tests.support.committed import Found, said, write_output
from tests.support.job import Models

HEAVY = {"ray", "torch", "transformers", "ultralytics", "openvino", "onnxruntime", "xgrammar", "google.genai"}
SHARDS = "abc"


@pytest.fixture
def options(models: Models, tmp_path: Path) -> list[str]:
    """The options of a run that finds everything done in the output `out`."""
    job.write_shards(tmp_path / "in", SHARDS)
    options = [*models.options(), "--set", "output.person_json=tar"]
    places = [f"input.uri={tmp_path / 'in'}", f"output.uri={tmp_path / 'out'}"]
    settings = load_settings((), [*(o for o in options if o != "--set"), *places]).settings
    person = Found((0, 0, 0.5, 1), answers={"smolvlm": said()})
    write_output(
        ObjectStore(str(tmp_path / "out")),
        {name: {"f": [person, person]} for name in SHARDS},
        settings,
        fingerprints=resolve(settings).fingerprints,
        person_json="tar",
    )
    return ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *options]


def imported(*arguments: object, environment: dict[str, str]) -> set[str]:
    """Run a command, which must succeed, and return the modules that its process imported."""
    command = [sys.executable, "-X", "importtime", "-m", "jobs.cli", *arguments]
    done = job.finish(job.start_command(command, environment))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = {line.rpartition("|")[2].strip() for line in lines}
    assert "jobs.run.output_status" in names
    return names


def test_a_run_with_nothing_to_do_imports_neither_ray_nor_a_model_library(options, tmp_path):
    assert not HEAVY & imported("annotate", *options, environment=job.NO_RAY)
    run = job.progress(tmp_path / "out")["run"]
    assert (run["shards_done"], run["shards_skipped"]) == (0, 3)
    assert len(job.consolidated(tmp_path / "out")) == 6


def test_gemini_without_anybody_waiting_imports_neither_ray_nor_its_client(tmp_path):
    output = tmp_path / "out"
    write_output(ObjectStore(str(output)), {"a": {"f": []}})
    given = ["--output", output, "--set", "gemini.enabled=true"]
    environment = {**job.NO_RAY, "GEMINI_API_KEY": "none"}
    assert not HEAVY & imported("gemini", *given, environment=environment)
    assert job.progress(output)["run"]["gemini"]["answered"] == 0
