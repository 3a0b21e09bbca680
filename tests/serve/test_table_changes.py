"""Decisions on a page whose persons have changed in the output since it was loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serve.served import Output
from tests.support.in_process import run_in_process


def test_a_decision_about_somebody_who_was_erased_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = Output(tmp_path, monkeypatch)
    with output.served() as client:
        erase = ("erase", "--output", output.path, "--person", "a/f/1", "--yes", "--cache", output.cache)
        assert run_in_process(monkeypatch, *erase) == 0
        status, answer = client.post("decide", {"kind": "not_a_person", "ids": [1, 2]})
    assert (status, "was erased" in answer["error"]) == (400, True)
    assert output.decisions() == []
