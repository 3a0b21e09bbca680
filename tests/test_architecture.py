"""Imports go one way: jobs use actors, actors use storage, and storage only the small leaves."""

from __future__ import annotations

import ast

from tests.conftest import REPO_ROOT

LEAVES = {"attributes", "errors", "records", "settings_section"}
"""Modules of `actors` that `actors.storage` may use: they import nothing but each other."""


def imports(package: str) -> dict[str, set[str]]:
    """Module to the modules of this project that it imports, wherever in the file."""
    found: dict[str, set[str]] = {}
    for path in sorted((REPO_ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(REPO_ROOT).with_suffix("").parts)
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} imports relatively"
                names |= {f"{node.module}.{a.name}" for a in node.names} | {str(node.module)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        found[module] = names
    return found


def of(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if name.split(".")[0] in packages}


def test_actors_know_nothing_of_jobs_tests_and_benchmarks():
    for module, names in imports("actors").items():
        assert not of(names, "jobs", "tests", "benchmarks"), module


def test_jobs_know_nothing_of_tests_and_benchmarks():
    for module, names in imports("jobs").items():
        assert not of(names, "tests", "benchmarks"), module


def test_storage_uses_only_itself_and_the_leaves():
    allowed = {f"actors.{leaf}" for leaf in LEAVES}
    for module, names in imports("actors/storage").items():
        for name in of(names, "actors"):
            parts = name.split(".")
            assert len(parts) > 1, module
            assert parts[1] == "storage" or ".".join(parts[:2]) in allowed, f"{module} imports {name}"


def test_leaves_use_only_each_other():
    found = imports("actors")
    for leaf in LEAVES:
        for name in of(found[f"actors.{leaf}"], "actors"):
            assert name.split(".")[1] in LEAVES, f"actors.{leaf} imports {name}"


def test_only_the_stages_and_the_tracker_know_ray_among_actors():
    users = {module for module, names in imports("actors").items() if of(names, "ray")}
    assert users == {"actors.attempt_tracker", "actors.gemini.stage", "actors.stages"}


def test_files_stay_small():
    for package in ("jobs", "actors"):
        for path in (REPO_ROOT / package).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) < 400, path
