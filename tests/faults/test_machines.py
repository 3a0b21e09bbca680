"""Machines that run full, hang, or break in other ways than by dying.

Promise: whatever is wrong with a machine, nothing is recorded as failed for it, and once the fault is over
the same command gives what an undisturbed run gives.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from jobs.command import EXIT_STALLED
from tests.support import job, ray_cluster, without_ray
from tests.support.fault_rounds import ROUNDS, SEED
from tests.support.job import Models
from tests.support.outcomes import assert_whole, outcome

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3600), pytest.mark.long]

RUNS = 6
"""How often the command is given at most."""

_MiB = 1 << 20
_HOG_BYTES = 3 << 30
_FREE_BYTES = 8 << 30
"""Memory that this machine must have free, so that the round does no harm to others on it."""

seeds = pytest.mark.parametrize("seed", range(SEED, SEED + max(1, ROUNDS)))


@pytest.fixture(scope="module")
def undisturbed(models: Models, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An input, and what a run on it leaves that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job.write_shards(folder / "in", "abcdef", frames=4)
    options = [*models.options(), "--set", "run.infrastructure_pause_s=0"]
    options += ["--set", "output.person_json=files"]
    without_ray.annotate(folder / "in", folder / "out", *options)
    expected = outcome(str(folder / "out"))
    assert len(expected["annotations/smolvlm"]) > 0
    return SimpleNamespace(source=folder / "in", output=folder / "out", options=options, expected=expected)


@contextmanager
def _small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a disk of a few MiB on a folder."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _arguments(undisturbed: SimpleNamespace, output: Path) -> list[Any]:
    return ["annotate", "--input", undisturbed.source, "--output", output, *undisturbed.options]


def _until_done(start: Callable[[int], subprocess.CompletedProcess[str]]) -> list[int]:
    """Give the command until it ends with exit code 0, and return all exit codes."""
    codes: list[int] = []
    for attempt in range(RUNS):
        done = start(attempt)
        codes.append(done.returncode)
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode == 0:
            return codes
    raise AssertionError(f"{codes}: {done.stdout}{done.stderr}")


@seeds
def test_a_disk_that_the_output_fills(seed: int, undisturbed: SimpleNamespace, tmp_path: Path):
    needed = sum(path.stat().st_size for path in undisturbed.output.rglob("*") if path.is_file())
    room = int(needed * random.Random(seed).uniform(0.1, 0.9))
    with _small_disk(tmp_path / "disk", 64 * _MiB) as disk:
        ballast, output = disk / "ballast", disk / "out"
        ballast.write_bytes(b"\0" * (shutil.disk_usage(disk).free - room))

        def run(attempt: int) -> subprocess.CompletedProcess[str]:
            if attempt == 1:
                ballast.unlink()
            return without_ray.command(*_arguments(undisturbed, output), expect=None)

        codes = _until_done(run)
        print(f"disk full after {room} of {needed} bytes, seed {seed}: exit codes {codes}")
        assert codes[0] != 0
        assert_whole(str(output), undisturbed.expected)


# It holds objects in the store of its node until its standard input ends.
_HOLD = """
import sys
import numpy
import ray

ray.init(address=sys.argv[1], log_to_driver=False)
held = [ray.put(numpy.ones(int(sys.argv[2]), numpy.uint8)) for _ in range(int(sys.argv[3]))]
print("held", flush=True)
sys.stdin.read()
"""


@seeds
def test_a_disk_that_ray_fills_with_what_it_spills(seed: int, undisturbed: SimpleNamespace, tmp_path: Path):
    output = tmp_path / "out"
    # Every block goes through the store, and what doesn't fit there to a disk that is full.
    everything = {"RAY_max_direct_call_object_size": "1"}
    with _small_disk(tmp_path / "disk", _MiB) as disk, pytest.MonkeyPatch.context() as patch:
        for name, value in everything.items():
            patch.setenv(name, value)
        cluster = ray_cluster.new_cluster(
            num_cpus=4, object_store_memory=80 * _MiB, object_spilling_directory=str(disk)
        )
        try:
            (disk / "ballast").write_bytes(b"\0" * shutil.disk_usage(disk).free)
            hold = subprocess.Popen(
                [sys.executable, "-c", _HOLD, str(cluster.address), str(_MiB), "75"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert hold.stdout is not None
            assert hold.stdout.readline() == b"held\n"

            def run(attempt: int) -> subprocess.CompletedProcess[str]:
                if attempt == 1:
                    hold.communicate()
                    (disk / "ballast").unlink()
                started = job.start(
                    *_arguments(undisturbed, output),
                    *("--set", "run.stall_warning_s=40", "--set", "run.stall_fail_s=60"),
                    environment={"RAY_ADDRESS": str(cluster.address), **everything},
                )
                return job.finish(started)

            codes = _until_done(run)
        finally:
            cluster.shutdown()
    print(f"spill disk full, seed {seed}: exit codes {codes}")
    assert codes[0] != 0
    assert_whole(str(output), undisturbed.expected)


@seeds
def test_the_memory_monitor_kills_workers(seed: int, undisturbed: SimpleNamespace, tmp_path: Path):
    memory = psutil.virtual_memory()
    if memory.available < _FREE_BYTES:
        pytest.skip("needs 8 GiB of free memory")
    # Somebody takes the memory that is left up to this limit.
    limit = (memory.total - memory.available + _HOG_BYTES * 2 / 3) / memory.total
    output, rng = tmp_path / "out", random.Random(seed)
    cluster = ray_cluster.new_cluster(num_cpus=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_memory_usage_threshold", f"{limit:.3f}")
        patch.setenv("RAY_memory_monitor_refresh_ms", "250")
        ray_cluster.add_node(cluster, num_cpus=4)
    killed: set[int] = set()
    try:

        def run(attempt: int) -> subprocess.CompletedProcess[str]:
            started = job.start(
                *_arguments(undisturbed, output),
                # The first death of a worker would count as the fault of its shard, were it another one.
                *("--set", "run.max_attempts=1"),
                environment={"RAY_ADDRESS": str(cluster.address)},
            )
            if attempt == 0:
                before = {
                    actor.pid
                    for actor in job.wait_for(lambda: ray_cluster.actors(cluster, "detect"), started)
                }
                time.sleep(rng.uniform(0, 2))
                hog = subprocess.Popen(
                    [sys.executable, "-c", f"import sys; held = b'1' * {_HOG_BYTES}; sys.stdin.read()"],
                    stdin=subprocess.PIPE,
                )
                try:
                    job.wait_for(lambda: not before & set(psutil.pids()), started)
                    if started.poll() is None:
                        killed.update(before - set(psutil.pids()))
                finally:
                    hog.communicate()
            done = job.finish(started)
            assert "failed" not in {record["state"] for record in job.records(output).values()}
            return done

        codes = _until_done(run)
    finally:
        cluster.shutdown()
    print(f"memory monitor, seed {seed}: exit codes {codes}")
    assert killed, "no worker was killed"
    assert_whole(str(output), undisturbed.expected)


# One worker ends itself. The other one waits until the memory monitor, which finds the memory short all the
# time, kills it.
_DEATHS = """
import json
import os
import sys
import time

import ray

from actors.attempt_tracker import killed_for_memory

ray.init(address=sys.argv[1], log_to_driver=False)


@ray.remote
class Worker:
    def who(self):
        return ray.get_runtime_context().get_worker_id()

    def end(self, seconds):
        time.sleep(seconds)
        os._exit(1)


def deadly(resource, seconds):
    while True:
        worker = Worker.options(num_cpus=0, resources={resource: 1}).remote()
        try:
            found = ray.get(worker.who.remote())
            break
        except ray.exceptions.OutOfMemoryError:
            continue
    try:
        ray.get(worker.end.remote(seconds))
    except ray.exceptions.RayError:
        return killed_for_memory(found)


print(json.dumps([deadly("enough", 0), deadly("short", 300)]))
"""


def test_ray_tells_a_kill_for_memory_from_another_death():
    cluster = ray_cluster.new_cluster(num_cpus=0, resources={"enough": 1})
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_memory_usage_threshold", "0.02")
            patch.setenv("RAY_memory_monitor_refresh_ms", "3000")
            ray_cluster.add_node(cluster, num_cpus=0, resources={"short": 1})
        done = job.finish(job.start_command([sys.executable, "-c", _DEATHS, cluster.address]))
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [False, True]


@seeds
@pytest.mark.parametrize("stage", ["detect", "annotate"])
def test_a_worker_that_hangs(stage: str, seed: int, undisturbed: SimpleNamespace, tmp_path: Path):
    output, rng = tmp_path / "out", random.Random(f"{stage} {seed}")
    cluster = ray_cluster.new_cluster(num_cpus=4)
    stopped: list[ray_cluster.Actor] = []
    try:

        def run(attempt: int) -> subprocess.CompletedProcess[str]:
            started = job.start(
                *_arguments(undisturbed, output),
                *("--set", "run.stall_warning_s=40", "--set", "run.stall_fail_s=50"),
                environment={"RAY_ADDRESS": str(cluster.address)},
            )
            if attempt == 0:
                stopped.extend(job.wait_for(lambda: ray_cluster.actors(cluster, stage), started))
                time.sleep(rng.uniform(0, 0.5))
                for actor in stopped:
                    os.kill(actor.pid, signal.SIGSTOP)
            return job.finish(started)

        codes = _until_done(run)
    finally:
        cluster.shutdown()
        for actor in stopped:
            with suppress(ProcessLookupError):
                os.kill(actor.pid, signal.SIGKILL)
    print(f"{stage} hangs, seed {seed}: exit codes {codes}")
    assert codes[0] == EXIT_STALLED
    assert_whole(str(output), undisturbed.expected)


@seeds
def test_a_run_that_wakes_after_another_has_done_its_shards(
    seed: int, undisturbed: SimpleNamespace, tmp_path: Path
):
    output, rng = tmp_path / "out", random.Random(seed)
    cluster = ray_cluster.new_cluster(num_cpus=4)
    try:
        sleeper = job.start(
            *_arguments(undisturbed, output), environment={"RAY_ADDRESS": str(cluster.address)}
        )
        wanted = rng.randint(1, 3)
        job.wait_for(lambda: len(job.records(output)) >= wanted, sleeper)
        # Raylets go on, or the node would count as dead.
        asleep = {sleeper.pid, *job.ray_workers("Map")}
        was_running = sleeper.poll() is None
        for pid in asleep:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        committed = set(job.records(output))
        without_ray.command(*_arguments(undisturbed, output))
        for pid in asleep:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        woken = job.finish(sleeper)
    finally:
        cluster.shutdown()
    print(f"asleep with {len(committed)} of 6 shards committed, seed {seed}: exit code {woken.returncode}")
    assert was_running, "it had ended before it could be stopped; take another FAULT_SEED"
    assert "Traceback" not in woken.stderr
    assert woken.returncode in (0, 1), woken.stderr
    without_ray.command(*_arguments(undisturbed, output))
    assert_whole(str(output), undisturbed.expected)


# The real command line, on whose machine the GPU of the first annotator breaks.
_BROKEN_GPU = """
import random
import sys
from pathlib import Path

from actors.smolvlm.shard_annotator import ShardAnnotator
from jobs.cli import main
from jobs.run import work_on_ray

MARKER, SEED = Path(sys.argv[1]), sys.argv[2]


class Annotator(ShardAnnotator):
    def annotate(self, block, report_progress):
        if not MARKER.exists() and random.Random(f"{SEED} {block.task.shard.shard_id}").random() < 0.4:
            MARKER.touch()
            self.is_broken = True
        if getattr(self, "is_broken", False):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().annotate(block, report_progress)


work_on_ray.ShardAnnotator = Annotator
main(sys.argv[3:])
"""


@seeds
def test_a_gpu_that_breaks(seed: int, undisturbed: SimpleNamespace, tmp_path: Path):
    output, script, marker = tmp_path / "out", tmp_path / "broken.py", tmp_path / "marker"
    script.write_text(_BROKEN_GPU)

    def run(_: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, script, marker, seed, *_arguments(undisturbed, output)]
        return job.finish(job.start_command(command, {"PYTHONPATH": str(job.REPO_ROOT)}))

    codes = _until_done(run)
    print(f"broken GPU, seed {seed}: exit codes {codes}")
    assert marker.exists(), "no shard broke it; take another FAULT_SEED"
    assert_whole(str(output), undisturbed.expected)
