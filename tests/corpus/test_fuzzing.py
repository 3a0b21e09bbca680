"""Minutes of coverage-guided fuzzing find no exception that a reader doesn't state, no hang and no bomb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO_ROOT
from tests.support.fault_rounds import ROUNDS, SEED

TARGETS = ("tar", "zip", "image", "sidecar", "configuration")
SECONDS = 12 * ROUNDS

pytestmark = [pytest.mark.long, pytest.mark.timeout(600 + 2 * SECONDS)]


@pytest.mark.parametrize("target", TARGETS)
def test_a_reader_survives_being_fuzzed(target: str, tmp_path: Path):
    pytest.importorskip("atheris", reason="needs atheris, which has wheels for Linux only")
    options = [f"-max_total_time={SECONDS}", f"-seed={SEED}"]
    # libFuzzer limits the peak of memory, and a process keeps its peak when it becomes another program: here
    # that of pytest, where other tests have loaded models. A shell is small, and what it forks begins anew.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    ended = subprocess.run(
        [*shell, sys.executable, "-m", "tests.corpus.fuzzing", target, str(tmp_path / target), *options],
        cwd=REPO_ROOT,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:].decode(errors="replace")
    print(f"{target}: {ended.stderr.decode(errors='replace').strip().splitlines()[-1]} (seed {SEED})")
