"""Run the command as users run it, and measure its time and memory from outside.

Memory is the kernel's peak of resident pages. For the object store it is the pages that were ever touched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

REPOSITORY = Path(__file__).resolve().parent.parent
_POLL_S = 1.0
"""Polling more often took a tenth of a core away from the job. The kernel keeps the peaks between polls."""


WORKERS = {
    "detector": "(MapBatches(detect))",
    "annotator": "(MapBatches(annotate))",
    "commit worker": "MapBatches(run_stage)",
}
"""Parts of the titles of the workers' processes: Ray replaces a worker's command line by what it runs."""


class Watch(Protocol):
    """Looks at a job while it runs."""

    def look(self, driver: int, output: Path) -> None:
        """Look at the job, about once in a second."""

    def stop(self) -> None:
        """Stop: the job has ended."""


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
    """One run of the job, from its start to its exit.

    Attributes:
        output: The output.
        frames: Number of frames that were done.
        seconds: Wall time.
        began: When it was started, as seconds since the epoch.
        peaks: Peak memory.
    """

    output: Path
    frames: int
    seconds: float
    began: float
    peaks: Peaks

    def seconds_per_shard(self) -> float:
        """Return the time between the commits, without the first tenth of them, in seconds a shard.

        It leaves out the start and the end of the run.
        """
        times = sorted(path.stat().st_mtime for path in (self.output / "commits").glob("*.json"))
        first = len(times) // 10
        return (times[-1] - times[first]) / (len(times) - 1 - first)


def run_job(
    source: Path,
    output: Path,
    settings: Sequence[str],
    module: str = "jobs.annotate",
    variables: Mapping[str, str] | None = None,
    watch: Watch | None = None,
) -> JobRun:
    """Run the command, and measure its memory from outside.

    Args:
        source: The input.
        output: The output, which doesn't exist yet.
        settings: Values of `--set`.
        module: The module that is run.
        variables: Additional environment variables.
        watch: What else looks at the job while it runs.
    """
    command = [sys.executable, "-m", module, "--input", str(source), "--output", str(output)]
    command += [part for setting in settings for part in ("--set", setting)]
    peaks = Peaks()
    with tempfile.TemporaryFile() as said:
        started, began = time.monotonic(), time.time()
        job = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=said, stderr=said, env={**os.environ, **(variables or {})}
        )
        try:
            while job.poll() is None:
                peaks.add(_peaks_of(job.pid))
                if watch is not None:
                    watch.look(job.pid, output)
                time.sleep(_POLL_S)
        finally:
            job.terminate()
            job.wait()
            if watch is not None:
                watch.stop()
        seconds = time.monotonic() - started
        if job.returncode:
            said.seek(0)
            raise SystemExit(f"the job failed:\n{said.read().decode(errors='replace')}")
    frames = json.loads((output / "progress.json").read_bytes())["frames"]["ok"]
    return JobRun(output, frames, seconds, began, peaks)


def _peaks_of(driver: int) -> Peaks:
    """Return the peaks of a running job up to now. Processes that have ended in the meantime are left out."""
    peaks = Peaks(driver=_peak_resident(driver))
    for pid in descendants(driver):
        title = title_of(pid)
        if WORKERS["detector"] in title:
            peaks.detector = max(peaks.detector, _peak_resident(pid))
        elif title.endswith("raylet"):
            with suppress(OSError):
                peaks.object_store = _object_store_bytes(pid)
    return peaks


def title_of(pid: int) -> str:
    """Return the title of a process, empty if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    return ""


def _peak_resident(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def descendants(pid: int) -> Iterator[int]:
    """Yield the ids of the processes that a process has started, and of those that they have started."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text().split():
                yield int(child)
                yield from descendants(int(child))


def _object_store_bytes(raylet: int) -> int:
    """Return the size of the store's allocated pages. Ray keeps its file open, but without a name."""
    total = 0
    for link in Path(f"/proc/{raylet}/fd").iterdir():
        with suppress(OSError):
            if "plasma" in os.readlink(link) and "/dev/shm" in os.readlink(link):
                total += link.stat().st_blocks * 512
    return total
