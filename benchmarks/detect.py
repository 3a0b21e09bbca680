"""Measure the speed and memory of a job that only detects, against other ways measured in the same run.

The other ways, and the frames/s that the job should reach relative to each of them on a CPU with VNNI:

    a  the prototype's way: one process, ultralytics on torch, one image after the other from a
       folder, one crop and one JSON file per person                             4.6 times
    b  Ray's documented way: read_images, and ultralytics on torch in actors     4.0 times
    c  Daft: the same decoder and network as a UDF, boxes written to Parquet     1.2 times
    d  a bare loop: simplejpeg decodes and the same network finds people, with as many processes and threads
       as the job has detectors; no Ray, no checks, no crops, no output          0.85 times

The job is the command as users run it, without annotators, from tars to committed shards, with default
settings but for detector.precision=int8, which large archives get by default. A first run makes the network,
which the others find in their outputs, and `c` and `d` use it too. The rate is that between the commits of a
run, which leaves out the start of Python, Ray and the detectors, and the end of the run. That of `b` is the
one between the batches that come out of Ray Data, and that of `c` is of the additional frames of a longer
pass in the additional time. `a` and `d` process one frame before the clock starts, and `d` has its files in
memory. `c` needs Daft, which `pip install "shopframe[bench]"` installs, and is left out where it isn't there.

Frames are 1920x1080 JPEGs of quality 85: photographs that are scaled until they cover that size, and
cropped to it. Rounds alternate between the ways, and the best round of each counts, because other
processes on the machine can only slow it down.

Accuracy is that of the int8 network and of float32 on the same photographs in their own sizes, against their
labels: AP50 and AP50-95 may differ by 0.006. int8 was calibrated on frames that were made of some of them.

Memory is the kernel's peak of resident pages. For the object store it is the pages that were ever touched.
It is measured in the same runs, in a run over one large tar (planned as parts), and in a run over many
shards with one tiny frame each, which would show how much memory the driver needs per shard.

If a target is missed, the job runs once more while py-spy looks where each kind of process spends its time.

    python -m benchmarks.detect [--frames DIR] [--weights FILE] [--rounds 3] [--profile] [--quick]
"""

from __future__ import annotations

import argparse
import gc
import io
import multiprocessing
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import joblib
import numpy as np

from actors.detect.settings import DetectorSettings, ResolvedDetector, resolve_detector
from actors.records import Shard
from actors.storage.model_paths import MODELS
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from benchmarks.detect_accuracy import average_precision
from benchmarks.detect_peers import (
    HEIGHT,
    WIDTH,
    bare_rate,
    daft_is_installed,
    daft_rate,
    prototype_rate,
    ray_rate,
)
from benchmarks.figures import Figures
from benchmarks.job_profile import PROFILE_HELP, JobProfile
from benchmarks.job_run import REPOSITORY, JobRun, Peaks, Watch, run_job
from benchmarks.machine import describe_cpu
from jobs.run.detector_network import choose_network
from jobs.run.plan import make_plan
from jobs.run.stage_resources import plan_resources
from jobs.settings import Settings, load_settings

_MB = 1e6
_QUALITY = 85
_PLANNED = 20_000
_AP_DIFFERENCE = 0.006


def make_frames(photographs: Path, folder: Path, most: int) -> list[Path]:
    """Turn photographs into camera frames in a new folder."""
    folder.mkdir()
    made = []
    for path in sorted(photographs.glob("*.jpg"))[:most]:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            continue
        scale = max(WIDTH / image.shape[1], HEIGHT / image.shape[0])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        top, left = (image.shape[0] - HEIGHT) // 2, (image.shape[1] - WIDTH) // 2
        made.append(folder / path.name)
        frame = image[top : top + HEIGHT, left : left + WIDTH]
        cv2.imwrite(str(made[-1]), frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not made:
        raise SystemExit(f"--frames {photographs}: the folder has no .jpg files")
    return made


def make_shards(frames: list[Path], folder: Path, shards: int, frames_per_shard: int) -> None:
    """Write tars of frames; the given frames are repeated as often as needed."""
    folder.mkdir()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for index in range(frames_per_shard):
                source = frames[(shard * frames_per_shard + index) % len(frames)]
                tar.add(source, f"{index:05d}-{source.name}")


def make_tiny_shards(folder: Path, shards: int) -> None:
    """Write tars with one small grey frame each."""
    folder.mkdir()
    content = cv2.imencode(".jpg", np.full((64, 64, 3), 114, np.uint8))[1].tobytes()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            member = tarfile.TarInfo("frame.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def plan_bytes_per_shard() -> float:
    """Measure the driver's memory for each shard of a plan, in a separate process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure_plan).result()


def _measure_plan() -> float:
    def shards() -> Iterator[Shard]:
        for index in range(_PLANNED):
            name = f"camera-{index % 100:03d}/2026-11-23/part-{index:06d}"
            uri = f"s3://archive-of-frames/{name}.tar"
            yield Shard(f"{name.replace('/', '_')}-{index:08x}", uri, "webdataset", f"{index:032x}", 2 << 20)

    def resident() -> int:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    before = resident()
    plan = make_plan(shards(), {}, {"detect": "0" * 64, "person_json": "0" * 64}, previews=12)
    after = resident()
    assert len(plan.tasks) == _PLANNED
    return (after - before) / _PLANNED


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = REPOSITORY.parent / "shared"
    parser.add_argument(
        "--frames",
        type=Path,
        default=shared / "frames",
        help="folder with images/ (.jpg) and labels/ (YOLO's text files)",
    )
    parser.add_argument("--weights", type=Path, default=shared / "models" / "yolov8n.pt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--few", type=int, default=4, help="shards of the run that makes the network")
    parser.add_argument("--many", type=int, default=20, help="shards of a measured run")
    parser.add_argument("--frames-per-shard", type=int, default=64)
    parser.add_argument("--large-frames", type=int, default=2000, help="frames of the large tar; 0 skips it")
    parser.add_argument(
        "--tiny-shards", type=int, default=300, help="shards with one tiny frame; 0 skips them"
    )
    parser.add_argument("--quick", action="store_true", help="check that everything runs; don't measure")
    parser.add_argument("--profile", action="store_true", help=PROFILE_HELP)
    given = parser.parse_args()
    if given.quick:
        # The trial of int8 wants 20 persons in a third of the frames of the smaller run.
        given.rounds, given.few, given.many, given.frames_per_shard = 1, 2, 3, 48
        given.large_frames, given.tiny_shards = 16, 8
    return given


def _made_network(folder: Path, weights: Path) -> tuple[Settings, ResolvedDetector, list[str]]:
    """Run the job once, so that it makes the network in int8.

    Returns:
        The job's settings, the network, and the settings as options.
    """
    options = [f"detector.weights={weights}", "detector.precision=int8", "smolvlm.enabled=false"]
    run_job(folder / "few", folder / "made", options)
    settings = load_settings((), options).settings
    exported = resolve_detector(settings.detector, settings.storage)
    output = ObjectStore(str(folder / "made"), settings.storage)
    return settings, choose_network(settings, exported, output, [], 0, sys.stderr).detector, options


class _Job:
    """Runs the job over an input, with the network that was made before."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        self._folder, self._options = folder, options

    def run(self, source: str, turn: int | str = 0, watch: Watch | None = None) -> JobRun:
        output = self._folder / f"job-{source}-{turn}"
        shutil.copytree(self._folder / "made" / MODELS, output / MODELS)
        return run_job(self._folder / source, output, self._options, watch=watch)


def _measured(peers: dict[str, list[float]], peer: str, measure: Callable[[], float]) -> None:
    """Measure another way. If it fails, it is left out: the job's own figures don't depend on it."""
    try:
        peers[peer].append(measure())
    except Exception:  # noqa: BLE001  libraries that are not ours can raise anything
        traceback.print_exc()


def main() -> None:
    """Run the benchmark and print its results."""
    given = _arguments()
    # A plain SIGTERM would leave the job and the folder of frames behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    figures = Figures("detect", given.quick)
    weights = given.weights.resolve()
    runs: list[JobRun] = []
    rates: list[float] = []
    peers: dict[str, list[float]] = {"a": [], "b": [], "c": [], "d": []}
    with tempfile.TemporaryDirectory(prefix="shopframe-") as name:
        folder = Path(name)
        frames = make_frames(given.frames / "images", folder / "frames", 128)
        make_shards(frames, folder / "few", given.few, given.frames_per_shard)
        make_shards(frames, folder / "many", given.many, given.frames_per_shard)
        settings, resolved, options = _made_network(folder, weights)
        detectors = plan_resources(settings, joblib.cpu_count(), None).detect.workers
        each = given.many * given.frames_per_shard // detectors // 2
        print(describe_cpu())
        print(
            f"{resolved.backend}, {resolved.precision}, {detectors} detectors with "
            f"{settings.detector.threads} threads each; {given.many} shards of {given.frames_per_shard} "
            f"frames; frames/s:"
        )
        job = _Job(folder, options)
        ways: dict[str, Callable[[Path], float]] = {
            "a": lambda written: prototype_rate(frames, weights, written),
            "b": lambda _: ray_rate(frames, weights, detectors),
            "c": lambda written: daft_rate(frames, settings.detector, resolved, detectors, written),
            "d": lambda _: bare_rate(frames, settings.detector, resolved, detectors, each),
        }
        if not daft_is_installed():
            del ways["c"]
        try:
            for turn in range(given.rounds):
                runs.append(job.run("many", turn))
                rates.append(given.frames_per_shard / runs[-1].seconds_per_shard())
                print(f"round {turn + 1}: job {rates[-1]:.1f}", flush=True)
                for peer, measure in ways.items():
                    _measured(peers, peer, partial(measure, folder / f"{peer}-{turn}"))
                    print(f"  {peer} {', '.join(f'{rate:.1f}' for rate in peers[peer])}", flush=True)
        finally:
            # Also of the rounds before one that fails or is stopped.
            if rates:
                _add_rates(figures, max(rates), peers)
        _add_accuracy(figures, given.frames, settings.detector, resolved)
        _add_memory(figures, "shards", [run.peaks for run in runs], settings)
        if given.large_frames:
            make_shards(frames, folder / "large", 1, given.large_frames)
            _add_memory(figures, "one large tar", [job.run("large").peaks], settings)
        if given.tiny_shards:
            make_tiny_shards(folder / "tiny", given.tiny_shards)
            _add_memory(figures, "many tiny shards", [job.run("tiny").peaks], settings)
        if given.profile or figures.has_missed:
            profile = JobProfile(folder)
            job.run("many", "profiled", profile)
            profile.print()
    figures.add(f"plan in the driver, of {_PLANNED:,} shards", plan_bytes_per_shard(), "bytes a shard")


def _add_rates(figures: Figures, job: float, peers: dict[str, list[float]]) -> None:
    for peer, title, wanted in (
        ("a", "the prototype's way", 4.6),
        ("b", "Ray's documented way", 4.0),
        ("c", "Daft", 1.2),
        ("d", "a bare loop", 0.85),
    ):
        what = f"whole job against {title}"
        if peers[peer]:
            rate = max(peers[peer])
            note = f"{job:.1f} against {rate:.1f} frames/s"
            figures.add(what, job / rate, "times", at_least=wanted, note=note)
            continue
        missing = "it failed" if peer != "c" or daft_is_installed() else "Daft isn't installed"
        figures.add(what, None, at_least=wanted, note=missing)


def _add_accuracy(
    figures: Figures, folder: Path, settings: DetectorSettings, resolved: ResolvedDetector
) -> None:
    exported = resolve_detector(settings, StorageSettings())
    in_float = average_precision(folder, settings, replace(exported, float_precision="float32"))
    in_int8 = average_precision(folder, settings, resolved)
    for name, before, after in zip(("AP50", "AP50-95"), in_float, in_int8, strict=True):
        note = f"{after:.3f} and {before:.3f}"
        difference = abs(before - after)
        figures.add(f"{name}, int8 from float32", difference, at_most=_AP_DIFFERENCE, note=note)


def _add_memory(figures: Figures, title: str, runs: list[Peaks], settings: Settings) -> None:
    peaks = Peaks()
    for run in runs:
        peaks.add(run)
    for part, used, allowed in (
        ("driver", peaks.driver, 700e6),
        ("one detector", peaks.detector, 1.5e9),
        ("object store", peaks.object_store, settings.ray.object_store_bytes),
    ):
        figures.add(f"memory, {title}: {part}", used / _MB, "MB", at_most=round(allowed / _MB))


if __name__ == "__main__":
    main()
