"""Run benchmarks one after the other, and print one table of all their figures.

    python -m benchmarks                      all but the soak, which takes an hour by itself
    python -m benchmarks detect overhead      some
    python -m benchmarks --quick              check that all run, with little work; measure nothing

Each is a process of its own, whose output is shown. One that fails, or takes longer than the limit, is in the
table as such, and the others go on. Figures are in the file as soon as they are measured. The exit code is 1
if a benchmark has failed and 0 if all have ended, whether or not they have reached their targets.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from rich.console import Console

from benchmarks.figures import FIGURES_FILE, Figures, print_table, read_figures
from benchmarks.job_run import REPOSITORY

_IN_ALL = (
    "detect",
    "vlm",
    "overhead",
    "crops",
    "reuse",
    "scale",
    "gemini",
    "serve",
    "calibration",
    "shares",
    "analyze",
)
_ONLY_BY_NAME = ("soak",)
_TABLE_WIDTH = 170
"""Width of the table where the output is no terminal, in characters."""
_PATIENCE_S = 60
"""Time that a benchmark has to clean up after itself when it is stopped."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*_IN_ALL, *_ONLY_BY_NAME)))
    parser.add_argument("--quick", action="store_true", help="check that everything runs; don't measure")
    parser.add_argument(
        "--to", type=Path, help="file to which figures are appended; by default a new one in out/benchmarks/"
    )
    parser.add_argument(
        "--limit-minutes", type=float, default=120, help="time after which a benchmark is stopped"
    )
    given = parser.parse_args()
    for name in given.names:
        if name not in (*_IN_ALL, *_ONLY_BY_NAME):
            parser.error(f"there is no benchmark {name}; there are {', '.join((*_IN_ALL, *_ONLY_BY_NAME))}")
        if given.quick and name in _ONLY_BY_NAME:
            parser.error(f"{name} has no --quick")
    return given


def _run(name: str, options: list[str], file: Path, limit_s: float) -> str:
    """Run a benchmark, and return why it has failed, or an empty text.

    Raises:
        KeyboardInterrupt: This process was interrupted. The benchmark has been stopped.
    """
    # What a benchmark starts belongs to its process group, so that nothing is left when it is stopped.
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", f"benchmarks.{name}", *options],
        cwd=REPOSITORY,
        env={**os.environ, FIGURES_FILE: str(file)},
        start_new_session=True,
    )
    try:
        code = process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _stop(process)
        return f"stopped after {limit_s / 60:g} minutes"
    except KeyboardInterrupt:
        _stop(process)
        raise
    finally:
        # A server or a Ray that a failed benchmark has left would take part in the next measurement. This
        # comes also after a second interrupt, which ends the patience.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"exit code {code}" if code else ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Give a benchmark time to clean up after itself. Most do after the first signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_PATIENCE_S)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the benchmarks that were asked for, and return the exit code."""
    given = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    file = given.to or REPOSITORY / "out" / "benchmarks" / f"{datetime.now():%Y-%m-%d-%H%M%S}.jsonl"
    file = file.resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    begin = file.stat().st_size if file.exists() else 0
    failed: dict[str, str] = {}
    is_interrupted = False
    os.environ[FIGURES_FILE] = str(file)
    for name in given.names or _IN_ALL:
        options = ["--quick"] if given.quick else []
        print(f"== {' '.join((f'benchmarks.{name}', *options))}", flush=True)
        began = time.monotonic()
        try:
            reason = _run(name, options, file, 60 * given.limit_minutes)
        except KeyboardInterrupt:
            reason, is_interrupted = "interrupted", True
        print(f"== benchmarks.{name}: {time.monotonic() - began:.0f} s{reason and f', {reason}'}", flush=True)
        if reason:
            failed[name] = reason
            Figures(name, given.quick).add("further figures", None, note=f"the benchmark failed: {reason}")
        if is_interrupted:
            break
    console = Console()
    if not console.is_terminal:
        console.width = _TABLE_WIDTH
    print_table(console, read_figures(file, begin))
    console.print(f"figures: {file}", soft_wrap=True, highlight=False)
    for name, reason in failed.items():
        console.print(f"benchmarks.{name} has failed: {reason}", soft_wrap=True, highlight=False)
    return 130 if is_interrupted else bool(failed)


if __name__ == "__main__":
    sys.exit(main())
