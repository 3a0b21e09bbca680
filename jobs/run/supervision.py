"""Tell the process that starts a run again (`--restarts`) how far the run has come.

An exit code doesn't say it. Ray ends the process of a driver that has lost its cluster with exit code 1,
which a run also has after shards that failed; and a cluster that can't be reached may be misspelt, or may be
coming back after the death that the run is started again for.
"""

from __future__ import annotations

import os
from typing import Literal

VARIABLE = "SHOPFRAME_SUPERVISOR"
"""Environment variable with the number of the file descriptor that the run writes to."""

Word = Literal["began", "ended"]
"""`began`: the settings hold and Ray has started. `ended`: the run ends by itself, with its own exit code."""

# Processes that this one starts don't have the descriptor, but perhaps another one with its number.
_DESCRIPTOR = os.environ.pop(VARIABLE, None)


def say(word: Word) -> None:
    """Tell the process that started this one, if it wants to know."""
    if _DESCRIPTOR is not None:
        os.write(int(_DESCRIPTOR), f"{word}\n".encode())


def said(descriptor: int) -> set[str]:
    """Return the words that a process has said before it ended.

    Args:
        descriptor: The reading end of the pipe. Others may still hold its writing end.
    """
    os.set_blocking(descriptor, False)
    try:
        return set(os.read(descriptor, 1 << 16).decode().split())
    except BlockingIOError:
        return set()
