"""Run the job for a long time while its processes are killed, and look whether anything changes over time.

The job is the command as users run it with `--restarts`, its real graph and real commits, with models that
use a core for a fixed time (`benchmarks.fixed_models`). At random moments a detector, an annotator or a
commit worker is killed, and now and then the driver, which its parent starts again. Every few seconds, the
committed shards, memory and open files of the driver, and memory of all that the job has started are noted.

    python -m benchmarks.soak --minutes 60 [--seed 1] [--plot docs/images/soak.png]

Each run gets some more shards than the one before, until the time is over. At the end:

    shards a minute, last third against first third                    at least 0.9
    peak memory of a driver, last run against first                    at most 1.1
    open files of a driver, last run against first                     at most 1.1
    objects of each kind in the output, after `shopframe clean`        as in a run without kills, per shard
    rows in the consolidated table                                     one for each frame

Later runs plan with more shards that are done, and consolidate more, so throughput is that while shards are
committed: the time between the first and the last commit of a run counts, without the starts of drivers that
follow a kill.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import psutil
import pyarrow.dataset as ds

from benchmarks.figures import Figures
from benchmarks.job_run import REPOSITORY, WORKERS
from benchmarks.machine import describe_cpu
from benchmarks.overhead import SETTINGS, write_shards

_FRAMES = 4
_MODEL_S = 0.02
_POLL_S = 2.0
_SHARDS_A_RUN = 400
_MIB = 1 << 20

_DRIVER_SHARE = 0.03
"""Share of the kills that hit the driver."""

_FOLDERS = ("commits", "frames", "persons", "annotations", "json")
"""Folders with objects of shards."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment.

    Attributes:
        at_s: Time since the start.
        run: Number of the run.
        shards: Shards committed so far.
        driver_bytes: Resident memory of the driver.
        driver_files: Its open files.
        all_bytes: Memory of the driver and all that it has started, each shared page counted once.
    """

    at_s: float
    run: int
    shards: int
    driver_bytes: int
    driver_files: int
    all_bytes: int


@dataclass(slots=True)
class Soak:
    """The output that grows, and what has happened so far.

    Attributes:
        folder: Folder of the input and the output.
        rng: Draws the moments and victims of the kills.
        pause_s: Mean time between two kills.
        started: When it began, by the monotonic clock.
        samples: What was seen.
        kills: When each kill was, since the start, and whom it hit.
        shards: Shards in the input.
        at_kill: Shards that were committed at the last kill.
    """

    folder: Path
    rng: random.Random
    pause_s: float
    started: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    kills: list[tuple[float, str]] = field(default_factory=list)
    shards: int = 0
    at_kill: int = 0

    @property
    def output(self) -> Path:
        """The output."""
        return self.folder / "out"

    def add_shards(self, count: int) -> None:
        """Write more shards into the input."""
        source = self.folder / "in"
        source.mkdir(exist_ok=True)
        write_shards(self.folder / "more", count, _FRAMES, first=self.shards)
        for path in (self.folder / "more").iterdir():
            path.rename(source / path.name)
        (self.folder / "more").rmdir()
        self.shards += count

    def run(self, number: int) -> None:
        """Give the command until it ends with exit code 0, and kill its processes meanwhile.

        Raises:
            SystemExit: It ended otherwise.
        """
        with (self.folder / f"log-{number}").open("wb") as said:
            parent = subprocess.Popen(
                [*command("annotate", self.folder / "in", self.output), "--restarts", "20"],
                cwd=REPOSITORY,
                stdout=said,
                stderr=said,
                env={**os.environ, "FIXED_MODEL_S": str(_MODEL_S)},
            )
            try:
                self._watch(parent, number)
            finally:
                parent.terminate()
                parent.wait()
        if parent.returncode:
            text = (self.folder / f"log-{number}").read_text(errors="replace")
            raise SystemExit(f"run {number} ended with exit code {parent.returncode}:\n{text[-3000:]}")

    def _watch(self, parent: subprocess.Popen[bytes], number: int) -> None:
        kill_at = time.monotonic() + self.rng.uniform(0.5, 1.5) * self.pause_s
        while parent.poll() is None:
            time.sleep(_POLL_S)
            driver = _child(parent.pid)
            if driver is None:
                continue
            with suppress(psutil.Error):
                self._sample(driver, number)
            # On a busy machine, a worker may take longer to start than the pause. It is left to work first.
            has_moved = bool(self.samples) and self.samples[-1].shards > self.at_kill
            if time.monotonic() > kill_at and has_moved and self._kill(driver):
                kill_at = time.monotonic() + self.rng.uniform(0.5, 1.5) * self.pause_s
                self.at_kill = self.samples[-1].shards

    def _sample(self, driver: psutil.Process, number: int) -> None:
        # Of a process that ends meanwhile nothing is counted.
        total = 0
        for process in [driver, *driver.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        committed = len(list((self.output / "commits").glob("*.json")))
        seen = Sample(
            time.monotonic() - self.started,
            number,
            committed,
            driver.memory_info().rss,
            driver.num_fds(),
            total,
        )
        self.samples.append(seen)

    def _kill(self, driver: psutil.Process) -> bool:
        """Kill a process, and return whether it was there. Nothing is killed before there is work to lose."""
        workers = {
            name: [p for p in driver.children(recursive=True) if title in _title(p)]
            for name, title in WORKERS.items()
        }
        if not workers["detector"]:
            return False
        victim = self.rng.choice(sorted(workers))
        if self.rng.random() < _DRIVER_SHARE:
            victim, chosen = "driver", [driver]
        else:
            chosen = workers[victim]
        for process in chosen[:1]:
            with suppress(psutil.Error):
                process.kill()
                self.kills.append((time.monotonic() - self.started, victim))
                return True
        return False


def command(name: str, source: Path, output: Path) -> list[str]:
    """Return a command line of the job with fixed models."""
    settings = (*SETTINGS, "run.max_worker_starts=20", "output.previews=0")
    given = [part for setting in settings for part in ("--set", setting)]
    module = "benchmarks.fixed_models" if name == "annotate" else f"jobs.{name}"
    places = (
        ["--output", str(output)] if name != "annotate" else ["--input", str(source), "--output", str(output)]
    )
    return [sys.executable, "-m", module, *places, *(given if name == "annotate" else [])]


def _child(pid: int) -> psutil.Process | None:
    with suppress(psutil.Error):
        for child in psutil.Process(pid).children():
            return child
    return None


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def objects(output: Path) -> Counter[str]:
    """Count the objects of shards by folder, without indexes and other hidden files."""
    return Counter(
        {
            name: sum(
                path.is_file()
                and not any(part.startswith(("_", ".")) for part in path.relative_to(output).parts)
                for path in (output / name).rglob("*")
            )
            for name in _FOLDERS
        }
    )


def per_shard_undisturbed(folder: Path, shards: int = 10) -> dict[str, float]:
    """Return how many objects of each folder a shard has after a run in which nothing is killed."""
    write_shards(folder / "calm", shards, _FRAMES)
    output = folder / "calm-out"
    environment = {**os.environ, "FIXED_MODEL_S": str(_MODEL_S)}
    subprocess.run(
        command("annotate", folder / "calm", output),
        cwd=REPOSITORY, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    return {name: count / shards for name, count in objects(output).items()}


def rates(samples: Sequence[Sample], drivers_killed: Sequence[float] = ()) -> list[float]:
    """Return the shards a minute of each run, between the first and the last commit that were seen in it.

    Args:
        samples: What was seen.
        drivers_killed: When the driver was killed. The time from then to the next commit isn't counted. Of
            kills that come before the same commit, only the first one says how much is left out.
    """
    found = []
    for number in sorted({sample.run for sample in samples}):
        of_run = [sample for sample in samples if sample.run == number]
        commits = [(a, b) for a, b in pairwise(of_run) if b.shards > a.shards]
        if len(commits) < 2:
            continue
        (_, start), (_, end) = commits[0], commits[-1]
        lost_s, counted_until_s = 0.0, start.at_s
        for killed in sorted(drivers_killed):
            if start.at_s <= killed < commits[-1][0].at_s:
                back_s = next(s.at_s for a, s in commits if a.at_s >= killed)
                lost_s += back_s - max(killed, counted_until_s)
                counted_until_s = back_s
        found.append(60 * (end.shards - start.shards) / (end.at_s - start.at_s - lost_s))
    return found


def draw(soak: Soak, path: Path) -> None:
    """Draw committed shards, memory and open files over time, with the kills."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    minutes = [sample.at_s / 60 for sample in soak.samples]
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(9, 7), layout="constrained")
    axes[0].plot(minutes, [sample.shards for sample in soak.samples])
    axes[0].set_ylabel("committed shards")
    axes[0].plot(
        [at / 60 for at, _ in soak.kills], [0] * len(soak.kills), "|", color="tab:red", label="kills"
    )
    axes[0].legend()
    axes[1].plot(minutes, [sample.all_bytes / _MIB for sample in soak.samples], label="all processes")
    axes[1].plot(minutes, [sample.driver_bytes / _MIB for sample in soak.samples], label="driver")
    axes[1].set_ylabel("memory, MiB")
    axes[1].legend()
    axes[2].plot(minutes, [sample.driver_files for sample in soak.samples])
    axes[2].set_ylabel("open files of the driver")
    axes[2].set_xlabel("minutes")
    for one in axes:
        one.set_ylim(bottom=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-s", type=float, default=10, help="mean time between two kills")
    parser.add_argument("--shards", type=int, default=_SHARDS_A_RUN, help="shards that each run adds")
    parser.add_argument("--plot", type=Path, help="file for a picture of the course")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    folder = Path(tempfile.mkdtemp(prefix="shopframe-soak-"))
    expected = per_shard_undisturbed(folder)
    soak = Soak(folder, random.Random(given.seed), given.pause_s)
    number = 0
    while time.monotonic() - soak.started < 60 * given.minutes:
        number += 1
        soak.add_shards(given.shards)
        soak.run(number)
        print(f"run {number}: {soak.shards} shards, {len(soak.kills)} kills", flush=True)
    for name in ("verify", "clean"):
        subprocess.run(command(name, soak.folder, soak.output), cwd=REPOSITORY, check=True)
    if given.plot is not None:
        draw(soak, given.plot)
    report(soak, expected)
    shutil.rmtree(folder)


def report(soak: Soak, expected: dict[str, float]) -> None:
    """Print what changed over time, and whether everything is there."""
    found = {name: count / soak.shards for name, count in objects(soak.output).items()}
    files = sorted((soak.output / "consolidated").rglob("*.parquet"))
    rows = ds.dataset(files).to_table(columns=["shard_id", "frame_key"])
    distinct = len({tuple(row.values()) for row in rows.to_pylist()})
    by_run = rates(soak.samples, [at_s for at_s, victim in soak.kills if victim == "driver"])
    if not by_run:
        raise SystemExit("the runs were too short for a rate; give a larger --shards")
    third = max(1, len(by_run) // 3)
    flat = (sum(by_run[-third:]) / third) / (sum(by_run[:third]) / third)
    runs = sorted({sample.run for sample in soak.samples})
    peak = [max(s.driver_bytes for s in soak.samples if s.run == run) for run in runs]
    open_files = [max(s.driver_files for s in soak.samples if s.run == run) for run in runs]
    victims = Counter(victim for _, victim in soak.kills)
    print(describe_cpu())
    print(
        f"{soak.samples[-1].at_s / 60:.0f} minutes, {len(runs)} runs, {soak.shards} shards, "
        f"{len(soak.kills)} kills: {', '.join(f'{n} {name}' for name, n in victims.most_common())}"
    )
    frames = soak.shards * _FRAMES
    figures = Figures("soak")
    what = "shards a minute, last third against first"
    figures.add(what, flat, "times", at_least=0.9)
    what = "driver's memory, last run against first"
    figures.add(what, peak[-1] / peak[0], "times", at_most=1.1)
    what = "driver's files, last run against first"
    figures.add(what, open_files[-1] / open_files[0], "times", at_most=1.1)
    for name, count in expected.items():
        figures.add(f"objects of a shard in {name}", found[name], at_least=count, at_most=count)
    figures.add("rows", rows.num_rows, at_least=frames, at_most=frames)
    figures.add("different rows", distinct, at_least=frames, at_most=frames)
    print(f"  shards a minute by run: {', '.join(f'{rate:.0f}' for rate in by_run)}")
    print(f"  driver's peak memory by run, MiB: {', '.join(f'{p / _MIB:.0f}' for p in peak)}")


if __name__ == "__main__":
    main()
