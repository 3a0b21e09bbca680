from __future__ import annotations

import pytest

from tests.analyze.tracked import Analyze


@pytest.fixture
def analyze(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Analyze:
    return Analyze(monkeypatch, capsys)
