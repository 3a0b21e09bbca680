"""Whatever dies, the result is the one of a run in which nothing did."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import job
from tests.job import Models

pytestmark = pytest.mark.timeout(900)

DATA = {"frames": (), "persons": ("crop",), "annotations/smolvlm": ()}


@pytest.fixture(scope="module")
def undisturbed(models: Models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    source, output = folder / "in", folder / "out"
    job.write_shards(source, "abcdef", frames=6)
    job.annotate(source, output, *models.options())
    return SimpleNamespace(source=source, output=output, options=models.options())


def assert_same_rows(output: Path, expected: Path) -> None:
    for kind, left_out in DATA.items():
        ours, theirs = (job.table(o, kind).drop_columns(list(left_out)) for o in (output, expected))
        assert ours.to_pylist() == theirs.to_pylist(), kind


def wait_for(condition, process, within_s: float = 240) -> bool:
    """Until the condition holds or the process ends; says whether it holds."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def test_a_driver_killed_over_and_over_loses_and_repeats_nothing(undisturbed, tmp_path):
    output = tmp_path / "out"
    rng = random.Random(5)
    committed: dict[str, str] = {}
    for _ in range(2):
        wanted = len(committed) + 1
        process = job.start(
            "annotate", "--input", undisturbed.source, "--output", output, *undisturbed.options
        )
        wait_for(lambda wanted=wanted: len(list((output / "commits").glob("*.json"))) >= wanted, process)
        time.sleep(rng.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        job.finish(process)
        # The workers outlive their driver for a moment; what they commit then counts too.
        found = {name: record["attempt_id"] for name, record in job.records(output).items()}
        assert committed.items() <= found.items()
        committed = found
    job.annotate(undisturbed.source, output, *undisturbed.options)
    found = {name: record["attempt_id"] for name, record in job.records(output).items()}
    assert committed.items() <= found.items()
    assert len(found) == 6
    assert_same_rows(output, undisturbed.output)


def children(pid: int) -> dict[int, str]:
    """Process id to title of everything that a process started."""
    titles, parents = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            titles[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return {child: titles[child] for child in found - {pid}}


def test_a_detector_that_is_killed_is_replaced(undisturbed, tmp_path):
    output = tmp_path / "out"
    process = job.start("annotate", "--input", undisturbed.source, "--output", output, *undisturbed.options)

    def detectors() -> list[int]:
        return [pid for pid, title in children(process.pid).items() if "MapBatches(DetectStage)" in title]

    assert wait_for(detectors, process)
    victim = detectors()[0]
    os.kill(victim, signal.SIGKILL)
    done = job.finish(process)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_rows(output, undisturbed.output)
