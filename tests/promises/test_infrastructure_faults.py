"""Faults that aren't in the input take nothing from what is committed, and a rerun finishes the rest."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import job, ray_cluster, without_ray
from tests.support.job import Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PROMPTLY = ["--set", "run.infrastructure_pause_s=0"]
NO_RETRY = ["--set", "run.max_infrastructure_retries=0"]

# Each script runs the real command line, in which one part fails as it would on a broken machine.
FAULTY = """
import os
import signal
import sys
from pathlib import Path

import ray

from actors.detect.shard_detector import ShardDetector
from actors.errors import ConfigError
from actors.smylvlm.shard_annotator import ShardAnnotator
from jobs.cli import main
from jobs.run import work_on_ray

MARKER = Path(sys.argv.pop(1))


{faults}


work_on_ray.ShardDetector = globals().get("Detector", ShardDetector)
work_on_ray.ShardAnnotator = globals().get("Annotator", ShardAnnotator)
main(sys.argv[1:])
""".replace("smylvlm", "smolvlm")

BROKEN_GPU = """
class Annotator(ShardAnnotator):
    def annotate(self, block, report_progress):
        if not MARKER.exists():
            MARKER.touch()
            self.is_broken = True
        if getattr(self, "is_broken", False):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().annotate(block, report_progress)
"""

DEADLY_ANNOTATION = """
class Annotator(ShardAnnotator):
    def annotate(self, block, report_progress):
        if block.task.shard.shard_id == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().annotate(block, report_progress)
"""

MOVED_SOURCE = """
class Detector(ShardDetector):
    def detect(self, block, report_progress):
        if block.task.shard.shard_id == "b":
            Path(block.task.shard.uri).unlink(missing_ok=True)
        return super().detect(block, report_progress)
"""

NO_DRIVER = """
class Annotator(ShardAnnotator):
    def load(self):
        raise RuntimeError("the NVIDIA driver on your system is too old")
"""

ONE_BAD_NODE = """
class Detector(ShardDetector):
    def load(self):
        here = ray.get_runtime_context().get_node_id()
        if not MARKER.exists():
            MARKER.write_text(here)
        if MARKER.read_text() == here:
            raise OSError(28, "No space left on device")
        super().load()
"""


@pytest.fixture(scope="module")
def committed(models: Models, tmp_path_factory):
    """The input and output of a run that has committed the shards a, b and c."""
    folder = tmp_path_factory.mktemp("committed")
    source, output = folder / "in", folder / "out"
    job.write_shards(source, "abc")
    without_ray.annotate(source, output, *models.options())
    return SimpleNamespace(source=source, output=output)


@pytest.fixture
def run(committed, models: Models, tmp_path):
    """A copy of the committed output, and a function that runs the command line with faults on it."""
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(committed.source, source, copy_function=shutil.copy2)
    # Records name their input by its path, and another input would be refused.
    shutil.copytree(committed.output, output)
    for record in (output / "commits").glob("*.json"):
        record.write_text(record.read_text().replace(str(committed.source), str(source)))

    def with_faults(faults: str, *options: str, expect: int, environment=None):
        script = tmp_path / "faulty.py"
        script.write_text(FAULTY.replace("{faults}", faults))
        arguments = [tmp_path / "marker", "annotate", "--input", source, "--output", output]
        done = job.finish(
            job.start_program(script, *arguments, *models.options(), *options, environment=environment)
        )
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Describe the person once more. {schema}")
    new_prompt = ["--set", f"smolvlm.prompt={prompt}"]

    def again(*options: str) -> None:
        without_ray.annotate(source, output, *models.options(), *options)

    return SimpleNamespace(
        source=source, output=output, with_faults=with_faults, again=again, new_prompt=new_prompt
    )


def objects_of(output: Path, shard_id: str) -> dict[str, bytes]:
    """Return the content of a shard's record and of everything that it names."""
    record = job.records(output)[shard_id]
    found = {"record": (output / "commits" / f"{shard_id}.json").read_bytes()}
    for entry in record["objects"]:
        path = output / entry["path"]
        files = [path] if path.is_file() else [p for p in sorted(path.rglob("*")) if p.is_file()]
        found |= {str(file.relative_to(output)): file.read_bytes() for file in files}
    return found


def assert_done_by_the_same_command(run, *options: str) -> None:
    run.again(*options)
    assert {record["state"] for record in job.records(run.output).values()} == {"done"}
    assert job.progress(run.output)["postponed"] == []
    assert not job.debris(run.output)


def test_a_broken_gpu_costs_one_shard_and_takes_nothing_from_it(run):
    before = objects_of(run.output, "b"), job.records(run.output)
    done = run.with_faults(BROKEN_GPU, *run.new_prompt, *NO_RETRY, expect=1)
    progress = job.progress(run.output)
    assert [shard["error"] for shard in progress["postponed"]] == [
        "annotate: RuntimeError: CUDA error: an illegal memory access was encountered"
    ]
    postponed = progress["postponed"][0]["shard"]
    numbers = progress["run"]
    assert (numbers["shards_done"], numbers["shards_failed"], numbers["shards_postponed"]) == (2, 0, 1)
    assert job.records(run.output)[postponed] == before[1][postponed]
    assert {record["state"] for record in job.records(run.output).values()} == {"done"}
    assert f"postponed: {postponed}: annotate: RuntimeError" in done.stdout
    assert "2 shards done, 0 failed, 1 postponed" in done.stdout
    assert "1 shard still to do: run the same shopframe annotate command again" in done.stdout
    assert_done_by_the_same_command(run, *run.new_prompt)
    assert job.progress(run.output)["run"]["shards_skipped"] == 2


@pytest.mark.long
def test_a_shard_that_a_broken_gpu_has_stopped_is_done_by_another_process_of_the_run(run):
    run.with_faults(BROKEN_GPU, *run.new_prompt, *PROMPTLY, expect=0)
    progress = job.progress(run.output)
    assert (progress["run"]["shards_done"], progress["postponed"]) == (3, [])


@pytest.mark.long
def test_a_committed_shard_that_kills_the_annotator_keeps_its_answers(run):
    before = objects_of(run.output, "b")
    run.with_faults(DEADLY_ANNOTATION, *run.new_prompt, "--set", "run.max_attempts=2", expect=1)
    assert objects_of(run.output, "b") == before
    progress = job.progress(run.output)
    assert [shard["shard"] for shard in progress["postponed"]] == ["b"]
    assert "its worker died 2 times on this shard" in progress["postponed"][0]["error"]
    assert_done_by_the_same_command(run, *run.new_prompt)


def test_a_source_that_is_gone_after_planning_takes_nothing_from_its_shard(run):
    before = objects_of(run.output, "b")
    run.with_faults(MOVED_SOURCE, "--set", "roi.max_persons=1", expect=1)
    assert objects_of(run.output, "b") == before
    progress = job.progress(run.output)
    assert progress["postponed"][0]["shard"] == "b"
    assert "b.tar: no longer there" in progress["postponed"][0]["error"]
    assert progress["shards"] == {"total": 3, "done": 3, "failed": 0, "pending": 0}


def test_a_model_that_no_node_can_load_stops_the_run_and_fails_no_shard(run):
    before = job.bytes_of(run.output, "commits")
    done = run.with_faults(NO_DRIVER, *run.new_prompt, "--set", "run.max_worker_starts=2", expect=2)
    assert "RuntimeError: the NVIDIA driver on your system is too old" in done.stderr
    assert job.bytes_of(run.output, "commits") == before


@pytest.mark.long
def test_a_node_on_which_the_model_does_not_load_is_left(run, cluster):
    ray_cluster.add_node(cluster, num_cpus=4)
    ray_cluster.add_node(cluster, num_cpus=4)
    cluster.wait_for_nodes()
    run.with_faults(
        ONE_BAD_NODE, "--force", "--set", "smolvlm.enabled=false", "--set", "run.max_worker_starts=2",
        expect=0, environment={"RAY_ADDRESS": str(cluster.address)},
    )  # fmt: skip
    assert {record["attempt"] for record in job.records(run.output).values()} == {2}
