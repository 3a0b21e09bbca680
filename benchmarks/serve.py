"""Measure what the page of `shopframe serve` costs over a million persons: seconds, and memory.

The server is a process of its own over an output of synthetic persons with two annotators.
A browser's requests are sent over HTTP, as many at once as a browser sends:

    start           from the command to the address
    first wall      what the page asks when it is opened: about, 60 persons, the charts, and 60 thumbnails
    filter          a click on a bar: 60 persons of the filter, and the charts
    queue           the 60 least certain, how many are left, and the charts
    last page       the last 60 of everybody
    person          one person with answers, history and neighbours
    decision        one value
    bare scan       what DuckDB takes to count one filter in the Parquet files by itself

    python -m benchmarks.serve [--persons 1000000] [--keep FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.figures import Figures
from benchmarks.serve_output import make_output

_REPEATS = 5
_MB = 1e6
_BROWSER_CONNECTIONS = 6


class _Browser:
    """Sends the requests of the page."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.columns: list[str] = []

    def ask(self, name: str, **content: object) -> Any:
        request = urllib.request.Request(
            f"{self._address}api/{name}", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.loads(response.read())

    def first_wall(self) -> None:
        about = self.ask("about")
        groups = about["charts"].items()
        self.columns = [column for name, of in groups for column in (of[:4] if name == "" else of[:1])]
        shown = self.ask("persons", limit=60, fresh=True)
        with ThreadPoolExecutor(_BROWSER_CONNECTIONS) as pool:
            charts = pool.submit(self.ask, "charts", columns=self.columns)
            list(pool.map(self._thumbnail, [person["id"] for person in shown["persons"]]))
            charts.result()

    def view(self, **view: object) -> None:
        with ThreadPoolExecutor(_BROWSER_CONNECTIONS) as pool:
            asked = [pool.submit(self.ask, "persons", view=view, limit=60, fresh=True)]
            asked.append(pool.submit(self.ask, "charts", view=view, columns=self.columns))
            if "queue" in view:
                asked.append(pool.submit(self.ask, "queue", view=view))
            for one in asked:
                one.result()

    def _thumbnail(self, number: int) -> None:
        with urllib.request.urlopen(f"{self._address}thumbnails/{number}", timeout=120) as response:
            response.read()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--persons", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="folder for the output, which is used again if it is there")
    parser.add_argument("--quick", action="store_true", help="take 20,000 persons, to check that it runs")
    options = parser.parse_args()
    if options.quick:
        options.persons = 20_000
    with tempfile.TemporaryDirectory(prefix="shopframe-serve-") as temporary:
        folder = options.keep or Path(temporary)
        if not (folder / "out").exists():
            make_output(folder, options.persons)
        _measure(folder, options.persons, Figures("serve", options.quick))


def _measure(folder: Path, persons: int, figures: Figures) -> None:
    with tempfile.TemporaryDirectory(prefix="shopframe-serve-cache-") as cache:
        command = [sys.executable, "-m", "jobs.serve", "--output", str(folder / "out"), "--port", "0"]
        began = time.perf_counter()
        with subprocess.Popen([*command, "--cache", cache], stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                address = process.stdout.readline().strip()
                figures.add(f"start, {persons:,} persons", time.perf_counter() - began, "s")
                _steps(_Browser(address), persons, folder, figures)
                figures.add("memory", _peak_bytes(process.pid) / _MB, "MB", at_most=1000)
            finally:
                process.kill()


def _steps(browser: _Browser, persons: int, folder: Path, figures: Figures) -> None:
    began = time.perf_counter()
    browser.first_wall()
    figures.add("first wall", time.perf_counter() - began, "s", at_most=2)
    female = {"column": "gender", "value": "female"}
    glasses = {"column": "glasses", "value": True}
    uncertain = {"column": "gender_confidence", "operator": "<", "value": 0.6}
    steps: dict[str, Callable[[], object]] = {
        "filter": lambda: browser.view(conditions=[female]),
        "filters": lambda: browser.view(conditions=[female, glasses, uncertain]),
        "queue": lambda: browser.view(queue="least_certain"),
        "last page": lambda: browser.ask("persons", after=persons - 60, limit=60),
        "person": lambda: browser.ask("person", id=17),
        "decision": lambda: browser.ask("decide", kind="value", ids=[17], attribute="gender", value="male"),
        "bare scan": lambda: _bare_scan(folder),
    }
    for name, step in steps.items():
        seconds = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        figures.add(
            name,
            statistics.median(seconds),
            "s",
            at_most=1 if name in ("filter", "filters") else None,
            note=f"median of {_REPEATS}, {max(seconds):.2f} at most",
        )


def _bare_scan(folder: Path) -> None:
    table = f"'{folder}/out/consolidated/*.parquet'"
    duckdb.execute(f"SELECT count(*) FROM {table} WHERE gender = 'female' AND glasses").fetchall()


def _peak_bytes(process_id: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


if __name__ == "__main__":
    main()
