"""The command line: help imports no heavy packages, and each command is also a module with the same help."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

from jobs.cli import COMMANDS
from tests.conftest import REPO_ROOT

HEAVY = ("ray", "torch", "transformers", "ultralytics", "cv2", "pyarrow", "s3fs")

_IMPORTED_BY_HELP = """
import json, os, sys

from jobs import cli

real_exit = os._exit
def told(code):
    print("modules", json.dumps(sorted(sys.modules)), flush=True)
    real_exit(code)


os._exit = told
cli.main(sys.argv[1:])
"""


def said(*command: str) -> str:
    """Run Python with the given arguments, which must succeed, and return its standard output."""
    done = subprocess.run(
        [sys.executable, *command], check=True, cwd=REPO_ROOT, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize("arguments", [[], *([entry.name] for entry in COMMANDS)])
def test_help_imports_nothing_heavy(arguments):
    shown, _, modules = said("-c", _IMPORTED_BY_HELP, *arguments, "--help").rpartition("modules ")
    assert "Usage" in shown
    assert "--help" in shown
    assert not {name.partition(".")[0] for name in json.loads(modules)} & set(HEAVY)


def test_help_lists_every_command():
    shown = said("-m", "jobs.cli", "--help")
    assert [entry.name for entry in COMMANDS if entry.name not in shown] == []


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_a_command_says_the_same_of_itself_in_the_list_and_in_its_module(entry):
    function = getattr(import_module(entry.module), entry.name)
    assert inspect.getdoc(function).splitlines()[0] == entry.help


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_a_command_is_also_a_module(entry):
    assert entry.help.split()[0] in said("-m", entry.module, "--help")


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_the_short_option_for_help_is_known_to_every_command(entry):
    assert "Usage" in said("-m", "jobs.cli", entry.name, "-h")
    assert "Usage" in said("-m", entry.module, "-h")


def test_the_version_is_that_of_the_package():
    assert said("-m", "jobs.cli", "--version") == f"shopframe {version('shopframe')}\n"
    assert "--version" in said("-m", "jobs.cli", "-h")
