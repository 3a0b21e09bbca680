"""Where a job spends its time: Python functions of the driver and its workers, sampled by py-spy.

py-spy looks into the processes from outside some times a second. The extra `bench` installs it. It may look
where the kernel lets it: as root, or where kernel.yama.ptrace_scope is 0; in a container with SYS_PTRACE.
Threads that wait are left out. Two profiles are taken: until the first commit, and from it on.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.job_run import REPOSITORY, WORKERS, descendants, title_of

PROFILE_HELP = "profile one more run of the job, also if no target is missed"

_SAMPLES_PER_S = 10
"""More would take a noticeable part of a core from the job, whose processes are a dozen."""
_FUNCTIONS = 8
_LEAST_SHARE = 0.02
"""Share of a process's samples from which on a function is printed."""
_LAST_LINES = 3
_PATIENCE_S = 60
_PHASES = ("until the first commit", "from the first commit on")
_DRIVER, _OTHER = "driver", "other workers"
_IDLE = "ray::IDLE"
"""Title of a worker that has not been told yet what to do."""
_WAITING = ("Condition.wait (threading.py)", "Worker.main_loop (ray/_private/worker.py)")
"""Where threads wait that py-spy takes for busy now and then."""

_PACKAGES = re.compile(r".*/(site-packages|python3\.\d+)/")
_LINE_NUMBER = re.compile(r":\d+\)$")


@dataclass(frozen=True, slots=True)
class Stack:
    """What one thread was doing.

    Attributes:
        frames: Functions from the outermost to the innermost, as `name (file)`.
        samples: How often it was seen so.
    """

    frames: tuple[str, ...]
    samples: int

    def place(self) -> str:
        """Return the innermost function of this project, and the innermost of all if that is another."""
        innermost = _short(self.frames[-1])
        ours = [frame for frame in self.frames if f"({REPOSITORY}/" in frame and "site-packages" not in frame]
        if not ours or ours[-1] == self.frames[-1]:
            return innermost
        return f"{_short(ours[-1])} > {innermost}"


def _short(frame: str) -> str:
    name, _, file = frame.rpartition(" (")
    return f"{name} ({_PACKAGES.sub('', file).removeprefix(f'{REPOSITORY}/')}"


def read_stacks(path: Path) -> Iterator[Stack]:
    """Yield the stacks of a file in py-spy's raw format, without those of threads that wait."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = tuple(_LINE_NUMBER.sub(")", frame) for frame in stack.split(";"))
        if stack and _short(frames[-1]) not in _WAITING:
            yield Stack(frames, int(samples))


@dataclass(slots=True)
class JobProfile:
    """Samples one run of the job.

    Attributes:
        folder: An existing folder for py-spy's files.
    """

    folder: Path
    _kinds: dict[int, str] = field(default_factory=dict)
    _samplers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _phase: int = 0

    def look(self, driver: int, output: Path) -> None:
        """Sample, and note which process is which. To be called again and again while the job runs.

        Args:
            driver: Process id of the driver.
            output: The job's output.
        """
        self._kinds[driver] = _DRIVER
        for pid in descendants(driver):
            title = title_of(pid)
            kind = next((kind for kind, part in WORKERS.items() if part in title), None)
            if kind is not None:
                self._kinds[pid] = kind
            elif title.startswith(_IDLE):
                self._kinds.setdefault(pid, _OTHER)
        phase = int(any((output / "commits").glob("*.json")))
        if phase != self._phase:
            self.stop()
            self._phase = phase
        # py-spy follows no children that a program in another language has started, as Ray's workers are.
        for pid in self._kinds:
            # It ends at once where Python has not started yet, and when the process has ended.
            if (pid not in self._samplers or self._samplers[pid].poll() is not None) and title_of(pid):
                self._start(pid)

    def _start(self, pid: int) -> None:
        program = _py_spy()
        if program is None or self._stacks(pid).exists():
            return
        try:
            # With a better niceness, the sampler would get a core before the process.
            niceness = os.getpriority(os.PRIO_PROCESS, pid)
        except ProcessLookupError:
            return
        options = ["--nonblocking", "--function", "--full-filenames", "--format", "raw"]
        with self._log(self._phase).open("wb") as said:
            self._samplers[pid] = subprocess.Popen(
                ["nice", "-n", str(niceness), program, "record", "--pid", str(pid), *options,
                 "--rate", str(_SAMPLES_PER_S), "--output", str(self._stacks(pid))],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip

    def stop(self) -> None:
        """End sampling."""
        for sampler in self._samplers.values():
            sampler.send_signal(signal.SIGINT)
        for sampler in self._samplers.values():
            with suppress(subprocess.TimeoutExpired):
                sampler.wait(timeout=_PATIENCE_S)
            sampler.kill()
            sampler.wait()
        self._samplers.clear()

    def print(self) -> None:
        """Print for each kind of process the functions that were seen most often, or why there are none."""
        for phase, title in enumerate(_PHASES):
            places: dict[str, Counter[str]] = {}
            for path in sorted(self.folder.glob(f"stacks-{phase}-*.txt")):
                kind = self._kinds[int(path.stem.rpartition("-")[2])]
                places.setdefault(kind, Counter()).update(count_places(read_stacks(path)))
            if not any(found.total() for found in places.values()):
                print(f"  no profile of the job {title}: {self._why_not(phase)}")
                continue
            print(f"  samples of the job {title}, in percent of each kind of process:")
            print_shares(places)

    def _why_not(self, phase: int) -> str:
        if _py_spy() is None:
            return "py-spy isn't installed; the extra bench has it"
        log = self._log(phase)
        if not log.exists():
            return "it never came so far"
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        said = " ".join(lines[-_LAST_LINES:])
        return f"py-spy has seen nothing, and said last: {said}"

    def _stacks(self, pid: int) -> Path:
        return self.folder / f"stacks-{self._phase}-{pid}.txt"

    def _log(self, phase: int) -> Path:
        return self.folder / f"py-spy-{phase}.log"


def _py_spy() -> str | None:
    return shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))


def count_places(stacks: Iterable[Stack]) -> Counter[str]:
    """Return how often each place was seen."""
    found: Counter[str] = Counter()
    for stack in stacks:
        found[stack.place()] += stack.samples
    return found


def print_shares(places: dict[str, Counter[str]]) -> None:
    """Print where each kind of process was seen most often, the kind with the most samples first."""
    for kind, found in sorted(places.items(), key=lambda item: -item[1].total()):
        if not found:
            continue
        print(f"    {kind}: {found.total():,} samples")
        for place, samples in found.most_common(_FUNCTIONS):
            if samples >= _LEAST_SHARE * found.total():
                print(f"      {100 * samples / found.total():4.0f}  {place}")
