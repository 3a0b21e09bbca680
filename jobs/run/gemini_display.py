"""The lines that a run prints while Gemini's backlog is worked off."""

from __future__ import annotations

import time
from collections.abc import Callable

from actors.gemini.gemini_run import GeminiRun
from jobs.run.words import counted

_SAY_EVERY_S = 10.0


class GeminiDisplay:
    """Prints how far the backlog is, when that has changed.

    Args:
        say: Prints a permanent line.
        every_s: Shortest time between two lines, in seconds.
    """

    def __init__(self, say: Callable[[str], None], every_s: float = _SAY_EVERY_S) -> None:
        self._say = say
        self._every_s = every_s
        self._said = ""
        self._said_at = time.monotonic()

    def __call__(self, done: GeminiRun, shards_left: int) -> None:
        """Print what was done and how many shards are left, if it is new and time for that."""
        line = (
            f"gemini: {counted(done.answered, 'person')} answered, {counted(shards_left, 'shard')} left "
            "in the backlog"
        )
        if line != self._said and time.monotonic() - self._said_at >= self._every_s:
            self._said, self._said_at = line, time.monotonic()
            self._say(line)
