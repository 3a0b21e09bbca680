"""Files stay small enough to read in one sitting; the arrows of import are contracts in pyproject.toml."""

from __future__ import annotations

import pytest

from tests.conftest import REPO_ROOT

MOST_LINES = 400


@pytest.mark.parametrize("package", ["actors", "jobs", "demo", "benchmarks"])
def test_files_stay_small(package):
    lengths = {
        str(path.relative_to(REPO_ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (REPO_ROOT / package).rglob("*.py")
    }
    assert lengths
    assert {path: lines for path, lines in lengths.items() if lines >= MOST_LINES} == {}
