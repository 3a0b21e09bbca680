"""What a benchmark's figures depend on: the CPU, and the version of the code."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import joblib

_FLAGS = {"VNNI": ("avx512_vnni", "avx_vnni"), "bfloat16": ("avx512_bf16", "amx_bf16")}


@cache
def describe_version() -> str:
    """Return the version of the package, with the commit if it runs from a repository."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return version("shopframe")
    return f"{version('shopframe')} ({found.stdout.strip()})"


@cache
def describe_cpu() -> str:
    """Name the CPU, the cores that this process may use, and the arithmetic that it has instructions for."""
    try:
        content = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return f"{platform.processor() or platform.machine()}, {joblib.cpu_count()} cores"
    lines = (line.partition(":") for line in content.splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    flags = set(facts.get("flags", "").split())
    has = [f"{'with' if flags.intersection(names) else 'without'} {word}" for word, names in _FLAGS.items()]
    name = facts.get("model name", platform.machine())
    return f"{name}, {joblib.cpu_count()} cores, {' and '.join(has)}"
