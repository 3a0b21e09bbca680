"""Run `shopframe annotate` twice in this process and measure its memory.

    python -m tests.corpus.measured_run GOOD GOOD_OUTPUT SOURCE OUTPUT OPTION...

The first run, over good frames, shows what a run takes anyway. The result is printed as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.support import without_ray


def peak_bytes() -> int:
    """Return the largest memory that this process has had, which Linux counts from its start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) * 1024


def main(good: str, good_output: str, source: str, output: str, *options: str) -> None:
    """Run both, and print the exit code and the messages of the second one, and the peak after each."""
    without_ray.annotate(good, good_output, *options)
    before = peak_bytes()
    done = without_ray.command("annotate", "--input", source, "--output", output, *options, expect=None)
    found = {"code": done.returncode, "said": done.stderr, "more_bytes": peak_bytes() - before}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
