"""What the tests share: exports that the project's own environment has made, and a browser.

These tests run in an environment of their own (`make test-interop`), because the readers don't fit into that
of the project. They start the commands in processes of that one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

REPO_ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
Decisions = list[dict[str, Any]]


def in_project(*arguments: object, expect: int = 0) -> None:
    """Run a module of the project in the project's environment, which ends with the expected code."""
    python = REPO_ROOT / ".venv" / "bin" / "python"
    environment = os.environ | {"PYTHONPATH": str(REPO_ROOT)}
    done = subprocess.run([python, "-m", *map(str, arguments)], check=False, cwd=REPO_ROOT, env=environment)
    assert done.returncode == expect


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an output in `out` and an export of it for each tool."""
    folder = tmp_path_factory.mktemp("exports")
    in_project("tests.interop.exports", folder)
    return folder


@pytest.fixture
def work(exports: Path, tmp_path: Path) -> Path:
    """A copy of the exports that a test may change."""
    return shutil.copytree(exports, tmp_path / "work")


@pytest.fixture
def take_back(work: Path) -> Callable[..., Decisions]:
    """Import what is in the folder of a tool, and return the decisions."""

    def take_back(tool: str, expect: int = 0) -> Decisions:
        in_project(
            "jobs.cli",
            "review",
            "import",
            "--output",
            work / "out",
            "--from",
            work / tool,
            "--reviewer",
            "ann",
            expect=expect,
        )
        lines = [path.read_text().splitlines() for path in (work / "out" / "corrections").glob("*.jsonl")]
        return [json.loads(line) for some in lines for line in some]

    return take_back


@pytest.fixture
def archives(tmp_path: Path) -> list[dict[str, Any]]:
    """Archives with shares and intervals that the project's own code has estimated."""
    in_project("tests.interop.share_numbers", tmp_path)
    found: list[dict[str, Any]] = json.loads((tmp_path / "shares.json").read_text())
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium; install Debian's package chromium")
    with sync_playwright() as playwright:
        # The sandbox of Chromium doesn't run as root. It opens nothing here but files that the tests wrote.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
