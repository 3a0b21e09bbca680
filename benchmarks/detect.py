"""Measure the speed and memory of a job that only detects, against two loops measured in the same run.

The loops, and the frames/s that the job should reach relative to each of them:

    a  the prototype's way: one process, ultralytics on torch, one image after the other from a
       folder, one crop and one JSON file per person                     at least 2.8 times
    b  a bare loop: simplejpeg decodes and the same network finds people, with as many processes and threads
       as the job has detectors; no Ray, no checks, no crops, no output  at least 0.85 times

The job is the command as users run it, with the default settings and without annotators, from tars to
committed shards. It runs twice, over a few shards and over many shards. The rate is that of the additional
frames in the additional time. This leaves out what both runs have in common: the start of Python, Ray and
the detectors, and the end of the run. `a` and `b` process one frame before the clock starts, and `b` has
its files in memory.

Frames are 1920x1080 JPEGs of quality 85: photographs that are scaled until they cover that size, and
cropped to it. Rounds alternate between the three, and the best round of each counts, because other
processes on the machine can only slow it down.

The advantage over `a` depends on the CPU. The job uses OpenVINO's bfloat16 where it is faster than
float32; elsewhere it gains only what OpenVINO's float32 gains over torch's.

Memory is the kernel's peak of resident pages. For the object store it is the pages that were ever touched.
It is measured in the same runs, in a run over one large tar (planned as parts), and in a run over many
shards with one tiny frame each, which would show how much memory the driver needs per shard.

    python -m benchmarks.detect [--frames DIR] [--weights FILE] [--rounds 3] [--quick]
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import cv2
import joblib
import numpy as np
import simplejpeg

from actors.detect.person_detector import PersonDetector
from actors.detect.settings import ResolvedDetector, resolve_detector
from actors.records import Shard
from jobs.run.plan import make_plan
from jobs.run.stage_resources import plan_resources
from jobs.settings import Settings, load_settings

_REPOSITORY = Path(__file__).resolve().parent.parent
_WIDTH, _HEIGHT = 1920, 1080
_MIB = 1 << 20
_QUALITY = 85
_POLL_S = 1.0
"""Polling more often took a tenth of a core away from the job. The kernel keeps the peaks between polls."""
_PLANNED = 20_000


@dataclass(slots=True)
class Peaks:
    """Peak memory of each kind of process, in bytes."""

    driver: int = 0
    detector: int = 0
    object_store: int = 0

    def add(self, other: Peaks) -> None:
        """Keep the larger value of each kind."""
        self.driver = max(self.driver, other.driver)
        self.detector = max(self.detector, other.detector)
        self.object_store = max(self.object_store, other.object_store)


@dataclass(frozen=True, slots=True)
class JobRun:
    """Frames, wall time and peak memory of one run of the job, from its start to its exit."""

    frames: int
    seconds: float
    peaks: Peaks


def make_frames(photographs: Path, folder: Path, most: int) -> list[Path]:
    """Turn photographs into camera frames in a new folder."""
    folder.mkdir()
    made = []
    for path in sorted(photographs.glob("*.jpg"))[:most]:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            continue
        scale = max(_WIDTH / image.shape[1], _HEIGHT / image.shape[0])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        top, left = (image.shape[0] - _HEIGHT) // 2, (image.shape[1] - _WIDTH) // 2
        made.append(folder / path.name)
        frame = image[top : top + _HEIGHT, left : left + _WIDTH]
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


def run_job(source: Path, output: Path, weights: Path) -> JobRun:
    """Run the command, and measure its memory from outside."""
    command = [sys.executable, "-m", "jobs.annotate", "--input", str(source), "--output", str(output)]
    command += ["--set", f"detector.weights={weights}", "--set", "smolvlm.enabled=false"]
    peaks = Peaks()
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        job = subprocess.Popen(command, cwd=_REPOSITORY, stdout=said, stderr=said)
        try:
            while job.poll() is None:
                peaks.add(_peaks_of(job.pid))
                time.sleep(_POLL_S)
        finally:
            job.terminate()
            job.wait()
        seconds = time.monotonic() - started
        if job.returncode:
            said.seek(0)
            raise SystemExit(f"the job failed:\n{said.read().decode(errors='replace')}")
    frames = json.loads((output / "progress.json").read_bytes())["frames"]["ok"]
    return JobRun(frames, seconds, peaks)


def _peaks_of(driver: int) -> Peaks:
    """Return the peaks of a running job up to now. Processes that have ended in the meantime are left out."""
    peaks = Peaks(driver=_peak_resident(driver))
    for pid in _descendants(driver):
        with suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            # Ray overwrites a worker's command line with the name of the task or actor it runs.
            if b"DetectStage" in title:
                peaks.detector = max(peaks.detector, _peak_resident(pid))
            elif title.endswith(b"raylet"):
                peaks.object_store = _object_store_bytes(pid)
    return peaks


def _peak_resident(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def _descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def _object_store_bytes(raylet: int) -> int:
    """Return the size of the store's allocated pages. Ray keeps its file open, but without a name."""
    total = 0
    for link in Path(f"/proc/{raylet}/fd").iterdir():
        with suppress(OSError):
            if "plasma" in os.readlink(link) and "/dev/shm" in os.readlink(link):
                total += link.stat().st_blocks * 512
    return total


def prototype_rate(frames: list[Path], weights: Path, output: Path) -> float:
    """Measure the frames per second of `a` in a separate process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run_prototype, frames, weights, output).result()


def _run_prototype(frames: list[Path], weights: Path, output: Path) -> float:
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false", YOLO_OFFLINE="1")
    from ultralytics.models import YOLO

    output.mkdir(parents=True)
    model: Any = YOLO(str(weights))
    model.predict(str(frames[0]), classes=[0], verbose=False)
    started = time.perf_counter()
    for path in frames:
        result = model.predict(str(path), classes=[0], verbose=False)[0]
        for index, (x1, y1, x2, y2, score, _) in enumerate(result.boxes.data.tolist()):
            name = f"{path.stem}-{index}"
            crop = result.orig_img[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
            cv2.imwrite(str(output / f"{name}.jpg"), crop)
            document = {"frame": path.name, "bbox": [x1, y1, x2, y2], "score": score}
            (output / f"{name}.json").write_text(json.dumps(document, indent=2))
    return len(frames) / (time.perf_counter() - started)


def bare_rate(
    frames: list[Path], settings: Settings, resolved: ResolvedDetector, processes: int, each: int
) -> float:
    """Measure the frames per second of `b`.

    The processes start together, and the time ends when the last one ends.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, context) as pool:
        together = manager.Barrier(processes)
        running = [
            pool.submit(_run_bare, frames, settings, resolved, each, together) for _ in range(processes)
        ]
        times = [future.result() for future in running]
    return processes * each / (max(stop for _, stop in times) - min(start for start, _ in times))


def _run_bare(
    frames: list[Path], settings: Settings, resolved: ResolvedDetector, count: int, together: Barrier
) -> tuple[float, float]:
    contents = [path.read_bytes() for path in frames]
    memory = np.empty(_WIDTH * _HEIGHT * 3, np.uint8)
    detector = PersonDetector(settings.detector, resolved)
    detector.detect([_decode(contents[0], memory)])
    together.wait()
    started = time.monotonic()  # the clock of the machine, so that processes can be compared
    for index in range(count):
        detector.detect([_decode(contents[index % len(contents)], memory)])
    return started, time.monotonic()


def _decode(content: bytes, memory: np.ndarray) -> np.ndarray:
    image: np.ndarray = simplejpeg.decode_jpeg(content, colorspace="BGR", buffer=memory)
    return image


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


def _additional_rate(few: list[JobRun], many: list[JobRun]) -> float:
    """Return the frames per second of the larger runs' additional frames.

    The best time of the larger runs and the best time of the smaller runs count.
    """
    seconds = min(run.seconds for run in many) - min(run.seconds for run in few)
    return (many[0].frames - few[0].frames) / seconds


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "MISSED"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = _REPOSITORY.parent / "shared"
    parser.add_argument(
        "--frames", type=Path, default=shared / "frames" / "images", help="folder of photographs (.jpg)"
    )
    parser.add_argument("--weights", type=Path, default=shared / "models" / "yolov8n.pt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--few", type=int, default=4, help="shards of the smaller run")
    parser.add_argument("--many", type=int, default=20, help="shards of the larger run")
    parser.add_argument("--frames-per-shard", type=int, default=64)
    parser.add_argument("--large-frames", type=int, default=2000, help="frames of the large tar; 0 skips it")
    parser.add_argument(
        "--tiny-shards", type=int, default=300, help="shards with one tiny frame; 0 skips them"
    )
    parser.add_argument("--quick", action="store_true", help="check that everything runs; don't measure")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.few, given.many, given.frames_per_shard = 1, 2, 4, 8
        given.large_frames, given.tiny_shards = 16, 8
    return given


def main() -> None:
    """Run the benchmark and print its results."""
    given = _arguments()
    # A plain SIGTERM would leave the job and the folder of frames behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    weights = given.weights.resolve()
    overrides = [f"detector.weights={weights}", "smolvlm.enabled=false"]
    settings = load_settings((), overrides).settings
    resolved = resolve_detector(settings.detector, settings.storage)
    detectors = plan_resources(settings, joblib.cpu_count(), None).detect.workers
    each = given.many * given.frames_per_shard // detectors // 2
    few, many, prototype, bare = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="shopframe-") as name:
        folder = Path(name)
        frames = make_frames(given.frames, folder / "frames", 8 if given.quick else 128)
        make_shards(frames, folder / "few", given.few, given.frames_per_shard)
        make_shards(frames, folder / "many", given.many, given.frames_per_shard)
        for turn in range(given.rounds):
            few.append(run_job(folder / "few", folder / f"job-few-{turn}", weights))
            many.append(run_job(folder / "many", folder / f"job-many-{turn}", weights))
            bare.append(bare_rate(frames, settings, resolved, detectors, each))
            prototype.append(prototype_rate(frames, weights, folder / f"prototype-{turn}"))
            rate = _additional_rate(few[-1:], many[-1:])
            print(
                f"round {turn + 1}: job {rate:.1f}, bare {bare[-1]:.1f}, prototype {prototype[-1]:.1f}",
                flush=True,
            )
        large = tiny = None
        if given.large_frames:
            make_shards(frames, folder / "large", 1, given.large_frames)
            large = run_job(folder / "large", folder / "job-large", weights)
        if given.tiny_shards:
            make_tiny_shards(folder / "tiny", given.tiny_shards)
            tiny = run_job(folder / "tiny", folder / "job-tiny", weights)
    if given.quick:
        print("everything runs; to measure, leave out --quick")
        return
    job = _additional_rate(few, many)
    print(
        f"{resolved.backend}, {resolved.precision}, {detectors} detectors with {settings.detector.threads} "
        f"threads each; rate over {given.many - given.few} shards of {given.frames_per_shard} frames; "
        f"frames/s, best of {given.rounds} rounds:"
    )
    print(f"  job                          {job:8.1f}")
    for title, rate, wanted in (
        ("a  prototype's way", max(prototype), 2.8),
        ("b  bare loop", max(bare), 0.85),
    ):
        verdict = _verdict(job / rate >= wanted)
        print(f"  {title:27}  {rate:8.1f}   job {job / rate:5.2f} times as fast; target {wanted}: {verdict}")
    print("peak memory, MiB:")
    for runs, title in ((few + many, "shards"), ([large], "one large tar"), ([tiny], "many tiny shards")):
        _print_memory([run.peaks for run in runs if run], title, settings)
    print(f"plan: {plan_bytes_per_shard():.0f} bytes per shard in the driver, for {_PLANNED:,} shards")


def _print_memory(runs: list[Peaks], title: str, settings: Settings) -> None:
    if not runs:
        return
    peaks = Peaks()
    for run in runs:
        peaks.add(run)
    for part, used, allowed in (
        ("driver", peaks.driver, 700e6),
        ("one detector", peaks.detector, 1.5e9),
        ("object store", peaks.object_store, settings.ray.object_store_bytes),
    ):
        verdict = _verdict(used <= allowed)
        print(
            f"  {title + ': ' + part:32} {used / _MIB:6.0f}   target at most {allowed / _MIB:.0f}: {verdict}"
        )


if __name__ == "__main__":
    main()
