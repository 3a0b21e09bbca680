"""Run `shopframe` in the process of the test, which takes milliseconds instead of seconds."""

from __future__ import annotations

import pytest

from jobs import cli, command


def run_in_process(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run a command up to its exit, and return its exit code."""
    codes: list[int] = []
    monkeypatch.setattr(command.os, "_exit", codes.append)
    cli.main([str(argument) for argument in arguments])
    (code,) = codes
    return code
