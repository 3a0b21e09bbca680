"""Profiles of a job: what py-spy's samples say about each kind of process."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.job_profile import JobProfile, count_places, print_shares, read_stacks
from tests.conftest import REPO_ROOT

PACKAGES = "/venv/lib/python3.11/site-packages"

BUSY = """
import sys, time

def burn():
    end = time.thread_time() + 2
    while time.thread_time() < end:
        pass
print("ready", flush=True)
sys.stdin.readline()
burn()
"""


def test_samples_are_counted_by_the_innermost_function_of_the_project(tmp_path, capsys):
    lines = [
        f"main ({PACKAGES}/ray/worker.py:1);cut_crop ({REPO_ROOT}/actors/detect/crops.py:70) 30",
        f"cut_crop ({REPO_ROOT}/actors/detect/crops.py:71) 20",
        f"cut_crop ({REPO_ROOT}/actors/detect/crops.py:70);resize ({PACKAGES}/cv2/x.py:9) 49",
        f"rare ({REPO_ROOT}/actors/detect/crops.py:8) 1",
        f"main ({PACKAGES}/ray/worker.py:1);Worker.main_loop ({PACKAGES}/ray/_private/worker.py:1) 300",
        f"put ({REPO_ROOT}/actors/detect/crops.py:8);Condition.wait (/usr/lib/python3.11/threading.py:1) 80",
        " 7",
    ]
    raw = tmp_path / "stacks.txt"
    raw.write_text("".join(f"{line}\n" for line in lines))
    detector = count_places(read_stacks(raw))
    raw.write_text("_load (/usr/lib/python3.11/importlib/x.py:4) 25\n")
    print_shares({"driver": count_places(read_stacks(raw)), "detector": detector})
    assert capsys.readouterr().out.splitlines() == [
        "    detector: 100 samples",
        "        50  cut_crop (actors/detect/crops.py)",
        "        49  cut_crop (actors/detect/crops.py) > resize (cv2/x.py)",
        "    driver: 25 samples",
        "       100  _load (importlib/x.py)",
    ]


@pytest.mark.skipif(
    shutil.which("py-spy") is None and not (Path(sys.executable).parent / "py-spy").exists(),
    reason="py-spy, which the extra bench installs, isn't there",
)
def test_py_spy_finds_the_function_that_a_process_is_in(tmp_path, capsys):
    script = tmp_path / "busy.py"
    script.write_text(BUSY)
    profile = JobProfile(tmp_path)
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            profile.look(process.pid, tmp_path)
            log = tmp_path / "py-spy-0.log"
            while "Sampling" not in log.read_text():
                time.sleep(0.1)
                profile.look(process.pid, tmp_path)
            process.stdin.write("\n")
            process.stdin.flush()
            process.wait()
        finally:
            process.kill()
            profile.stop()
    profile.print()
    first, kind, function, second = capsys.readouterr().out.splitlines()
    assert first == "  samples of the job until the first commit, in percent of each kind of process:"
    assert kind.startswith("    driver: ")
    assert f"burn ({script})" in function
    assert second == "  no profile of the job from the first commit on: it never came so far"
