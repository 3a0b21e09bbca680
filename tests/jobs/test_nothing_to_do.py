"""A run with nothing to do: it imports neither Ray nor a model library, and reads each record once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.storage.object_store import ObjectStore
from jobs.run.output_status import output_status
from jobs.run.prepare import check_input, prepare_run
from jobs.run.resolve import resolve
from jobs.run.run_record import write_run
from jobs.run.wrap_up import wrap_up
from jobs.settings import LoadedSettings, Settings, load_settings
from tests.support import job
from tests.support.committed import Found, said, write_output
from tests.support.job import Models

HEAVY = {"ray", "torch", "transformers", "ultralytics", "openvino", "onnxruntime", "xgrammar", "google.genai"}
SHARDS = "abc"


PERSON = Found((0, 0, 0.5, 1), answers={"smolvlm": said()})


@pytest.fixture
def loaded(models: Models, tmp_path: Path) -> LoadedSettings:
    """The settings of a run that finds everything done in the output `out`."""
    job.write_shards(tmp_path / "in", SHARDS)
    places = [f"input.uri={tmp_path / 'in'}", f"output.uri={tmp_path / 'out'}"]
    given = [option for option in models.options() if option != "--set"]
    loaded = load_settings((), [*given, *places, "output.person_json=tar"])
    commit(loaded.settings, dict.fromkeys(SHARDS, 2))
    return loaded


def commit(settings: Settings, persons: dict[str, int]) -> None:
    """Commit shards with so many persons each, as a run with these settings would."""
    write_output(
        ObjectStore(str(settings.output.uri)),
        {name: {"f": [PERSON] * number} for name, number in persons.items()},
        settings,
        fingerprints=resolve(settings).fingerprints,
        person_json="tar",
    )


def imported(*arguments: object, environment: dict[str, str]) -> set[str]:
    """Run a command, which must succeed, and return the modules that its process imported."""
    command = [sys.executable, "-X", "importtime", "-m", "jobs.cli", *arguments]
    done = job.finish(job.start_command(command, environment))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = {line.rpartition("|")[2].strip() for line in lines}
    assert "jobs.run.output_status" in names
    return names


def test_a_run_with_nothing_to_do_imports_neither_ray_nor_a_model_library(loaded, models, tmp_path):
    given = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--set", "output.person_json=tar"]
    assert not HEAVY & imported("annotate", *given, *models.options(), environment=job.NO_RAY)
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


class Counting(ObjectStore):
    """Counts how often each commit record is read."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.reads: Counter[str] = Counter()

    def read_with_etag(self, path):
        self.reads[path] += 1
        return super().read_with_etag(path)


def run_with_nothing_to_do(
    loaded: LoadedSettings, meanwhile: Callable[[], None] = lambda: None
) -> tuple[Counter[str], dict[str, Any]]:
    """Run in this process, and return how often each record was read, and the status."""
    settings = loaded.settings
    output = Counting(str(settings.output.uri))
    found = check_input(loaded, output, None, sys.stderr)
    prepared = prepare_run(found, output, "missing", None, keep_index=True)
    assert not prepared.has_work
    write_run(output, prepared.record)
    meanwhile()
    run: dict[str, Any] = {"shards_done": 0}
    schema = found.resolved.schema
    status = wrap_up(output, schema, settings.output, settings.consensus, run, [], seen=prepared.seen)
    assert status == output_status(ObjectStore(output.uri), postponed=[])
    return output.reads, status


def test_each_record_is_read_once_where_nothing_was_committed_in_between(loaded):
    run_with_nothing_to_do(loaded)
    reads, status = run_with_nothing_to_do(loaded)
    # The consolidation looks whether there is a calibration.
    assert reads == {f"commits/{name}.json": 1 for name in SHARDS} | {"calibration.json": 1}
    assert status["persons"]["kept"] == 6


def test_what_another_run_commits_meanwhile_is_counted_and_kept(loaded, tmp_path):
    run_with_nothing_to_do(loaded)
    _, status = run_with_nothing_to_do(loaded, lambda: commit(loaded.settings, {"b": 5, "c": 3}))
    assert status["persons"]["kept"] == 10
    assert len(job.consolidated(tmp_path / "out")) == 10
    assert not job.debris(tmp_path / "out")
