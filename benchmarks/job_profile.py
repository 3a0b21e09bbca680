"""Where a job spends its time: Python functions of the driver and its workers, sampled by py-spy.

py-spy looks into the processes from outside some times a second. The extra `bench` installs it. It may look
where the kernel lets it: as root, or where kernel.yama.ptrace_scope is 0; in a container with SYS_PTRACE.
Threads that wait are left out. Two profiles are taken: until the first commit, and from it on.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.job_run import REPOSITORY, WORKERS, descendants, title_of

PROFILE_HELP = "profile one more run of the job, also if no target is missed"

_SAMPLES_PER_S = 25
_FUNCTIONS = 8
_LEAST_SHARE = 0.02
"""Share of a process's samples from which on a function is printed."""
_PATIENCE_S = 60
_PHASES = ("until the first commit", "from the first commit on")
_DRIVER, _OTHER = "driver", "other processes"

_PROCESS = re.compile(r'process (\d+):"')
_PACKAGES = re.compile(r".*/(site-packages|python3\.\d+)/")
_LINE_NUMBER = re.compile(r":\d+\)$")


@dataclass(frozen=True, slots=True)
class Stack:
    """What one thread was doing.

    Attributes:
        pid: Its process.
        frames: Functions from the outermost to the innermost, as `name (file)`.
        samples: How often it was seen so.
    """

    pid: int
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
    """Yield the stacks of a file in py-spy's raw format, without those that have no function."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        stack, _, samples = line.rpartition(" ")
        processes = list(_PROCESS.finditer(stack))
        # A process is preceded by the processes that have started it.
        frames = stack[processes[-1].end() :].partition('";')[2]
        if frames:
            named = tuple(_LINE_NUMBER.sub(")", frame) for frame in frames.split(";"))
            yield Stack(int(processes[-1][1]), named, int(samples))


@dataclass(slots=True)
class JobProfile:
    """Samples one run of the job.

    Attributes:
        folder: An existing folder for py-spy's files.
    """

    folder: Path
    _kinds: dict[int, str] = field(default_factory=dict)
    _phase: int = -1
    _sampler: subprocess.Popen[bytes] | None = None
    _said: IO[bytes] | None = None

    def look(self, driver: int, output: Path) -> None:
        """Sample, and note which process is which. To be called again and again while the job runs.

        Args:
            driver: Process id of the driver.
            output: The job's output.
        """
        self._kinds[driver] = _DRIVER
        for pid in descendants(driver):
            title = title_of(pid)
            for kind, part in WORKERS.items():
                if part in title:
                    self._kinds[pid] = kind
        phase = int(any((output / "commits").glob("*.json")))
        if phase != self._phase:
            self.stop()
            self._phase = phase
        # It ends at once where Python has not started yet.
        if self._sampler is None or self._sampler.poll() is not None:
            self._start(driver)

    def _start(self, driver: int) -> None:
        program = _py_spy()
        if program is None:
            return
        if self._said is not None:
            self._said.close()
        self._said = self._log(self._phase).open("wb")
        options = ["--subprocesses", "--nonblocking", "--function", "--full-filenames", "--format", "raw"]
        self._sampler = subprocess.Popen(
            [program, "record", "--pid", str(driver), *options, "--rate", str(_SAMPLES_PER_S),
             "--output", str(self._stacks(self._phase))],
            stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said,
        )  # fmt: skip

    def stop(self) -> None:
        """End sampling."""
        if self._sampler is None:
            return
        self._sampler.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._sampler.wait(timeout=_PATIENCE_S)
        self._sampler.kill()
        self._sampler.wait()
        self._sampler = None

    def print(self) -> None:
        """Print for each kind of process the functions that were seen most often, or why there are none."""
        for phase, title in enumerate(_PHASES):
            path = self._stacks(phase)
            if path.exists():
                print(f"  samples of the job {title}, in percent of each kind of process:")
                print_shares(list(read_stacks(path)), self._kinds)
            else:
                print(f"  no profile of the job {title}: {self._why_not(phase)}")

    def _why_not(self, phase: int) -> str:
        if _py_spy() is None:
            return "py-spy isn't installed; the extra bench has it"
        log = self._log(phase)
        if not log.exists():
            return "it never came so far"
        lines = log.read_text(errors="replace").split("\n")
        return " ".join(line.strip() for line in lines if line.strip()) or "py-spy said nothing"

    def _stacks(self, phase: int) -> Path:
        return self.folder / f"stacks-{phase}.txt"

    def _log(self, phase: int) -> Path:
        return self.folder / f"py-spy-{phase}.log"


def _py_spy() -> str | None:
    return shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))


def print_shares(stacks: list[Stack], kinds: Mapping[int, str]) -> None:
    """Print where each kind of process was seen.

    Args:
        stacks: What was seen.
        kinds: Kinds of processes by their ids.
    """
    places: dict[str, Counter[str]] = {}
    for stack in stacks:
        places.setdefault(kinds.get(stack.pid, _OTHER), Counter())[stack.place()] += stack.samples
    for kind, found in sorted(places.items(), key=lambda item: -item[1].total()):
        print(f"    {kind}: {found.total():,} samples, about {found.total() / _SAMPLES_PER_S:.0f} s")
        for place, samples in found.most_common(_FUNCTIONS):
            if samples >= _LEAST_SHARE * found.total():
                print(f"      {100 * samples / found.total():4.0f}  {place}")
