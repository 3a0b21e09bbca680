"""What a benchmark's figures depend on besides the code: the CPU."""

from __future__ import annotations

import platform
from pathlib import Path

import joblib

_FLAGS = {"VNNI": ("avx512_vnni", "avx_vnni"), "bfloat16": ("avx512_bf16", "amx_bf16")}


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
