"""Measure what the job costs beside its models: time, memory, and the wait for the first commit.

The job is the command as users run it, with its real graph, but with a detector and an annotator that use one
core for a fixed time (`benchmarks.fixed_models`). So the time that the models need is known, and the rest is
the pipeline's own: reading tars, cutting crops, passing blocks, looking for known answers, commits, Ray.

    large shards     40 of 64 frames with a person each, 20 ms a model and picture
    small shards     2,000 of one frame with one person, 2 ms a model and picture

A frame's file has 100 kB, so that a large shard isn't taken for a small one that travels with others.
The time of a shard is that between the commits of a run, without the first tenth of them. That leaves out the
start and the end of the run; the wait for the first commit has a table, from a run over 200 small shards.
The models use the cores that the pipeline needs too, so nothing of its work is hidden:

    share of the cores' time that isn't the models', large shards      at most 5%
    time of a small shard beyond the models' time on all cores         at most 15 ms
    driver's memory with ten times as many small shards                at most 10% more
    from the command to the first commit                               at most 8 s

If one is missed, the job runs twice more while py-spy looks where each kind of process spends its time.

    python -m benchmarks.overhead [--rounds 2] [--profile] [--quick]
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import cv2
import joblib
import numpy as np

from benchmarks.figures import Figures
from benchmarks.job_profile import PROFILE_HELP, JobProfile
from benchmarks.job_run import REPOSITORY, JobRun, run_job
from benchmarks.machine import describe_cpu

_MIB = 1 << 20
_MODELS = 2
_FRAME_BYTES = 100_000
"""Size of a frame's file. A large shard then has 6.4 MB; a parcel may have 2 MiB."""
SETTINGS = (
    f"detector.weights={REPOSITORY / 'demo/models/detector.pt'}",
    "detector.precision=float32",
    f"smolvlm.model={REPOSITORY / 'demo/models/smolvlm'}",
    "smolvlm.vision=torch",
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of shards.

    Attributes:
        name: Its name.
        shards: Number of shards.
        frames: Number of frames of a shard.
        model_s: Time of a model for a picture.
    """

    name: str
    shards: int
    frames: int
    model_s: float

    @property
    def models_s(self) -> float:
        """Time that the models need for a shard, if they always have all cores."""
        cores: int = joblib.cpu_count()
        return _MODELS * self.frames * self.model_s / cores


def write_shards(folder: Path, shards: int, frames: int, first: int = 0, frame_bytes: int = 0) -> None:
    """Write tars of small pictures, no two alike, so that none passes for a frame of a still camera.

    Args:
        folder: A folder that doesn't exist yet.
        shards: Number of tars.
        frames: Number of frames of each.
        first: Number of the first tar.
        frame_bytes: Minimum size of a frame's file. Zeros after the JPEG pad it.
    """
    folder.mkdir()
    content = cv2.imencode(".jpg", np.full((64, 64, 3), 114, np.uint8))[1].tobytes()
    for shard in range(first, first + shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for frame in range(frames):
                data = (content + f"{shard} {frame}".encode()).ljust(frame_bytes, b"\0")
                member = tarfile.TarInfo(f"{frame:05d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def measure(kind: Kind, folder: Path, rounds: int) -> JobRun:
    """Run the job over a kind of shards, and return the run that was fastest between its commits."""
    source = folder / f"{kind.name}-{kind.shards}"
    write_shards(source, kind.shards, kind.frames, frame_bytes=_FRAME_BYTES)
    variables = {"FIXED_MODEL_S": str(kind.model_s)}
    runs = []
    for turn in range(rounds):
        output = folder / f"{source.name}-{turn}"
        runs.append(run_job(source, output, SETTINGS, "benchmarks.fixed_models", variables))
        assert runs[-1].frames == kind.shards * kind.frames
        shown = 1000 * runs[-1].seconds_per_shard()
        print(
            f"{kind.shards:,} {kind.name} shards: {runs[-1].seconds:.1f} s, {shown:.1f} ms a shard",
            flush=True,
        )
    return min(runs, key=JobRun.seconds_per_shard)


def until_first_commit(run: JobRun) -> dict[str, float]:
    """Return the parts of the time from the command to the first commit, in seconds."""
    at: dict[str, float] = {}
    for line in (run.output / "processing.log").read_text().splitlines():
        entry = json.loads(line)
        at.setdefault(entry["message"], datetime.fromisoformat(entry["time"]).timestamp())
    first = min((run.output / "commits").glob("*.json"), key=lambda path: path.stat().st_mtime)
    committed, stages = first.stat().st_mtime, json.loads(first.read_bytes())["timings_s"]
    return {
        "Python, imports, settings": at["start"] - run.began,
        "models, input and plan": at["plan"] - at["start"],
        "Ray and its workers": committed - at["plan"] - sum(stages.values()),
        **{f"the shard: {stage}": seconds for stage, seconds in stages.items()},
    }


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="check that everything runs; don't measure")
    parser.add_argument("--profile", action="store_true", help=PROFILE_HELP)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    large, few, many = (
        Kind("large", 40, 64, 0.02),
        Kind("small", 200, 1, 0.002),
        Kind("small", 2000, 1, 0.002),
    )
    if given.quick:
        large, few, many = Kind("large", 2, 8, 0.02), Kind("small", 3, 1, 0.002), Kind("small", 12, 1, 0.002)
        given.rounds = 1
    figures = Figures("overhead", given.quick)
    print(describe_cpu())
    with tempfile.TemporaryDirectory(prefix="shopframe-") as name:
        folder = Path(name)
        run = measure(large, folder, given.rounds)
        own = 1 - large.models_s / run.seconds_per_shard()
        figures.add("share that isn't the models', large shards", 100 * own, "%", at_most=5)
        _print_memory(large, run)
        fewer = measure(few, folder, given.rounds)
        parts = until_first_commit(fewer)
        spent = ", ".join(f"{part} {seconds:.1f}" for part, seconds in parts.items())
        figures.add("from the command to the first commit", sum(parts.values()), "s", at_most=8, note=spent)
        run = measure(many, folder, given.rounds)
        beyond_ms = 1000 * (run.seconds_per_shard() - many.models_s)
        figures.add("a small shard, beyond the models", beyond_ms, "ms", at_most=15)
        growth = 100 * (run.peaks.driver / fewer.peaks.driver - 1)
        figures.add(
            f"driver's growth, {many.shards:,} against {few.shards:,} shards", growth, "%", at_most=10
        )
        _print_memory(many, run)
        if given.profile or figures.has_missed:
            for kind in (large, many):
                _profile(kind, folder)


def _profile(kind: Kind, folder: Path) -> None:
    """Run the job once more over shards that were written before, and print where it spends its time."""
    print(f"a profile over {kind.shards:,} {kind.name} shards:")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        profile = JobProfile(Path(name))
        run_job(
            folder / f"{kind.name}-{kind.shards}",
            folder / f"{kind.name}-{kind.shards}-profiled",
            SETTINGS,
            "benchmarks.fixed_models",
            {"FIXED_MODEL_S": str(kind.model_s)},
            profile,
        )
        profile.print()


def _print_memory(kind: Kind, run: JobRun) -> None:
    print(
        f"  peak memory, {kind.shards:,} {kind.name} shards: driver {run.peaks.driver / _MIB:.0f} MiB, "
        f"detector {run.peaks.detector / _MIB:.0f} MiB, object store {run.peaks.object_store / _MIB:.0f} MiB"
    )


if __name__ == "__main__":
    main()
