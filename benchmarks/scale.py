"""Measure what an output of many committed shards costs: seconds, requests and memory, on a disk and on S3.

For each number of shards and each store, with 10 persons per shard:

    run without an index     shopframe annotate with nothing to do, which reads each record by itself
    plan                     listing the input, finding the models, reading the records, comparing
    status                   shopframe status
    first consolidation      shopframe consolidate, without earlier tables
    nothing to do            shopframe annotate once more
    nothing changed          shopframe consolidate once more
    one changed shard        shopframe consolidate after one shard was committed again
    a commit                 commits of new shards, in turn beside one shard and beside all others

and, in the same run, what the work costs without the code of the project:

    bare listing             a listing of the same objects, by os.scandir or by botocore
    bare rows                the same tables read by pyarrow and written to Delta Lake tables by deltalake
    bare writing             the objects of a commit, written without any record

S3 is a SeaweedFS server on this machine, which counts its requests. Every step is a process of its own. Its
seconds include the start of Python, which is the smaller part only for many shards, and they depend on what
else the machine does; CPU seconds and requests hardly do. The committer makes the first 1,000 shards. The
others have records of their own and link to the tables of these, so that 100,000 shards are made in minutes.

    python -m benchmarks.scale [--shards 1000 10000] [--stores local s3] [--weights FILE] [--json FILE]
    python -m benchmarks.scale --quick                       # check that everything runs
    python -m benchmarks.scale --shards 1000 10000 100000    # hours; docs/scale.md has the results
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures
from benchmarks.scale_outputs import PERSONS_PER_SHARD, copy_output, make_input, make_output
from benchmarks.scale_steps import METRICS
from jobs.settings import load_settings
from tests.servers.seaweedfs import S3Server, count_requests, seaweedfs
from tests.support.tiny_smolvlm import make_tiny_smolvlm

_REPOSITORY = Path(__file__).resolve().parent.parent
_MIB = 1 << 20
_MB = 1e6
_COMMITS = 20
_FOLDERS = ("commits", "frames", "persons", "annotations")


# A small process between the two, because Linux counts the memory of the process that starts another as the
# peak of the other.
_RUNNER = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss << 10}))
sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One step: wall and CPU time in seconds, peak memory in bytes, S3 requests by kind, and its result."""

    store: str
    shards: int
    step: str
    seconds: float
    cpu_s: float
    peak_bytes: int
    requests: dict[str, int]
    result: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return the measurement as a line of the table."""
        asked = " ".join(f"{kind} {count:,}" for kind, count in sorted(self.requests.items()))
        return (
            f"  {self.store:6} {self.shards:>8,} {self.step:22} {self.seconds:9.1f} {self.cpu_s:9.1f} "
            f"{self.peak_bytes / _MIB:8.0f}   {asked}"
        )


class Bench:
    """The outputs of one store, and the steps that are measured on them."""

    def __init__(self, folder: Path, weights: Path, server: S3Server | None) -> None:
        self._folder = folder
        self._server = server
        self._store = "local" if server is None else "s3"
        self._bucket = None if server is None else server.new_bucket()
        self._common = [
            f"detector.weights={weights}",
            f"smolvlm.model={folder / 'smolvlm'}",
            "output.person_json=tar",
            "output.previews=0",
        ]

    def output(self, shards: int) -> str:
        """Return the URI of the output with this many shards."""
        name = f"output-{shards}"
        return str(self._folder / name) if self._bucket is None else f"s3://{self._bucket}/{name}"

    def prepare(self, shards: int) -> None:
        """Make the output: a copy, so that the steps leave the one that was made as it is."""
        made, source = self._folder / f"made-{shards}", self._folder / f"input-{shards}"
        if not made.exists():
            make_input(source, shards)
            making = self._folder / f"making-{shards}"
            places = [f"input.uri={source}", f"output.uri={making}"]
            make_output(load_settings((), [*self._common, *places]).settings)
            making.rename(made)
        if self._server is not None:
            copy_output(made, self.output(shards).removeprefix("s3://"), self._server.environment)
            return
        shutil.rmtree(self.output(shards), ignore_errors=True)
        # Records are replaced and not changed in place, so that links do for a copy.
        shutil.copytree(made, self.output(shards), copy_function=os.link)

    def measure_all(self, shards: int) -> list[Measured]:
        """Measure all steps on the output with this many shards."""
        self._measured: list[Measured] = []
        output = self.output(shards)
        run = ("annotate", *self._options(shards))
        consolidate = ("consolidate", "--output", output)
        listed = [str(self._folder / f"input-{shards}"), *(f"{output}/{name}" for name in _FOLDERS)]
        self._measure(shards, "run without an index", "command", *run, "--set", "output.consolidate=false")
        self._measure(shards, "bare listing", "listing", *listed)
        self._measure(shards, "plan", "plan", *self._settings(shards))
        self._measure(shards, "status", "command", "status", "--output", output)
        self._measure(shards, "first consolidation", "command", *consolidate)
        self._measure(shards, "nothing to do", "command", *run)
        self._measure(shards, "nothing changed", "command", *consolidate)
        self._step("change", str(shards // 2), *self._settings(shards))
        self._measure(shards, "one changed shard", "command", *consolidate)
        for mode in ("tar", "files"):
            given = [self.output(1), output, str(_COMMITS), mode, *self._settings(shards)]
            self._measure(shards, f"commits, {mode}", "commits", *given)
        to = self._folder / f"rows-{self._store}-{shards}"
        shutil.rmtree(to, ignore_errors=True)
        self._measure(shards, "bare rows", "rows", output, str(to))
        return self._measured

    def _settings(self, shards: int) -> list[str]:
        places = [f"input.uri={self._folder / f'input-{shards}'}", f"output.uri={self.output(shards)}"]
        return [*self._common, *places]

    def _options(self, shards: int) -> list[str]:
        return [part for setting in self._settings(shards) for part in ("--set", setting)]

    def _measure(self, shards: int, title: str, step: str, *arguments: str) -> None:
        before = self._requests()
        started = time.perf_counter()
        result = self._step(step, *arguments)
        seconds = time.perf_counter() - started
        asked = dict(self._requests() - before)
        own = {name: result.pop(name) for name in ("cpu_s", "peak_bytes")}
        found = Measured(self._store, shards, title, seconds, requests=asked, result=result, **own)
        self._measured.append(found)
        print(found.line(), flush=True)

    def _requests(self) -> Counter[str]:
        return Counter() if self._server is None else count_requests(self._server.metrics_url)

    def _step(self, step: str, *arguments: str) -> dict[str, Any]:
        environment = dict(os.environ)
        if self._server is not None:
            environment |= {**self._server.environment, METRICS: self._server.metrics_url}
        called = ["-m", "jobs.cli"] if step == "command" else ["-m", "benchmarks.scale_steps", step]
        done = subprocess.run(
            [sys.executable, "-c", _RUNNER, sys.executable, *called, *arguments],
            cwd=_REPOSITORY, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{step} failed:\n{done.stdout}{done.stderr}")
        *said, used = done.stdout.splitlines()
        result = json.loads(said[-1]) if step != "command" else {}
        return {**result, **json.loads(used)}


def _print_ratios(measured: Sequence[Measured]) -> dict[str, Measured]:
    """Print how the steps over one output compare with their peers, and return the steps by name."""
    steps = {m.step: m for m in measured}
    shards = measured[0].shards
    print(f"{measured[0].store}, {shards:,} shards, {shards * PERSONS_PER_SHARD:,} persons:")
    for step, peer in (
        ("plan", "bare listing"),
        ("nothing to do", "bare listing"),
        ("status", "bare listing"),
        ("first consolidation", "bare rows"),
    ):
        ratio, cpu = (getattr(steps[step], a) / getattr(steps[peer], a) for a in ("seconds", "cpu_s"))
        print(f"  {step:22} {ratio:6.1f} times the seconds and {cpu:6.1f} times the CPU of {peer}")
    for mode in ("tar", "files"):
        result = steps[f"commits, {mode}"].result
        taken = result["commit_s"]
        print(
            f"  a commit with {mode:8} {taken['many']:.4f} s, {taken['one'] / taken['plain']:.1f} times bare "
            f"writing of its {result['objects']} objects"
        )
        asked = {name: sum(kinds.values()) for name, kinds in result["commit_requests"].items()}
        if any(asked.values()):
            print(f"    requests: {asked['one']} beside a single shard, {asked['many']} beside all others")
    return steps


def _add_figures(figures: Figures, store: str, shards: int, steps: dict[str, Measured]) -> None:
    for mode in ("tar", "files"):
        taken = steps[f"commits, {mode}"].result["commit_s"]
        what = f"{store}, a commit ({mode}) beside {shards:,} others, against one"
        note = f"{taken['many']:.4f} against {taken['one']:.4f} s"
        figures.add(what, taken["many"] / taken["one"], "times", at_most=1.2, note=note)
    idle, changed = steps["nothing to do"], steps["one changed shard"]
    of = f"{store}, {shards:,} shards"
    if store == "local":
        figures.add(f"{of}, nothing to do", idle.seconds, "s", at_most=25)
        figures.add(f"{of}, nothing to do: memory", idle.peak_bytes / _MB, "MB", at_most=600)
        figures.add(f"{of}, one changed shard", changed.seconds, "s", at_most=5)
        return
    pages = steps["bare listing"].requests["LIST"]
    asked = sum(idle.requests.values())
    figures.add(f"{of}, nothing to do: requests", asked, note=f"for {pages:,} pages of listings")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    weights = _REPOSITORY / "demo" / "models" / "detector.pt"
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--stores", choices=["local", "s3"], nargs="+", default=["local", "s3"])
    parser.add_argument("--weights", type=Path, default=weights)
    parser.add_argument(
        "--folder", type=Path, help="folder for inputs and outputs, which are kept and used again"
    )
    parser.add_argument("--json", type=Path, help="file for all measurements")
    parser.add_argument("--quick", action="store_true", help="take 20 shards, to check that everything runs")
    given = parser.parse_args()
    if given.quick:
        given.shards = [20]
    return given


def main() -> None:
    """Run the benchmark and print its results."""
    given = _arguments()
    figures = Figures("scale", given.quick)
    measured: list[Measured] = []
    with ExitStack() as stack:
        folder = given.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shopframe-scale-")))
        if not (folder / "smolvlm").exists():
            make_tiny_smolvlm(folder / "smolvlm")
        print(f"  {'store':6} {'shards':>8} {'step':22} {'seconds':>9} {'CPU s':>9} {'MiB':>8}   requests")
        for store in given.stores:
            server = None
            if store == "s3":
                server = stack.enter_context(seaweedfs())
            bench = Bench(folder, given.weights.resolve(), server)
            bench.prepare(1)
            for shards in given.shards:
                bench.prepare(shards)
                found = bench.measure_all(shards)
                measured += found
                if given.json:
                    given.json.write_text(json.dumps([asdict(m) for m in measured], indent=1))
                steps = _print_ratios(found)
                # The targets are for many shards.
                if shards == max(given.shards):
                    _add_figures(figures, store, shards, steps)


if __name__ == "__main__":
    main()
