"""Notice that Gemini's stage no longer moves, although it doesn't wait on purpose."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from actors.errors import StalledError
from actors.gemini.protocol import Progress
from actors.time_text import duration

log = logging.getLogger(__name__)

_SHOWN = 5


class StallWatch:
    """Compares how far the stage is with how far it was.

    A request or a shard that ends is a movement. Waiting for the quota or for a batch job is none, but the
    deadlines begin when such a wait should be over.

    Args:
        warning_s: Seconds without a movement after which the user is told.
        fail_s: Seconds without a movement after which the run ends.
        say: Prints a line for the user.
        now: Returns the time in seconds.
    """

    def __init__(
        self,
        warning_s: float,
        fail_s: float,
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._warning_s = warning_s
        self._fail_s = fail_s
        self._say = say
        self._now = now
        self._seen: tuple[int, int] | None = None
        self._moved_at = now()
        self._warned = False

    def look(
        self,
        progress: Progress | None,
        shards_done: int,
        in_progress: Sequence[str],
        may_end: bool = True,
    ) -> None:
        """Look at the stage. Call this every few seconds.

        Args:
            progress: What the annotator said, or None if it has not answered.
            shards_done: Number of shards that were worked off.
            in_progress: Ids of the shards in progress.
            may_end: Whether the run ends if nothing moves. It goes on while it has other work.

        Raises:
            StalledError: Nothing has moved for `fail_s` seconds. The message names the shards.
        """
        now = self._now()
        if progress is not None:
            seen = (progress.steps, shards_done)
            if seen != self._seen or progress.wait_s > 0:
                self._moved_at = now + progress.wait_s
                self._seen, self._warned = seen, False
        if not in_progress and not may_end:
            # A stage without work may get some from the run later.
            self._moved_at = now
        waited_s = now - self._moved_at
        if waited_s <= self._warning_s:
            return
        shards = ", ".join(in_progress[:_SHOWN]) or "none"
        text = f"gemini: nothing moved for {duration(waited_s)}; shards in progress: {shards}"
        if may_end and waited_s > self._fail_s:
            raise StalledError(f"{text}; answers that came are kept: run the same command again")
        if not self._warned:
            self._warned = True
            log.warning(text)
            self._say(text)
