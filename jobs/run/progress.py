"""The progress display of a run, and the detection of stalled runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, Queue
from threading import Thread
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from actors.attempt_tracker import Snapshot
from actors.commit.accounting import ShardSummary
from actors.errors import StalledError
from actors.time_text import duration
from jobs.run.run_log import log
from jobs.run.time_left import TimeLeft
from jobs.run.totals import Totals
from jobs.run.words import counted

_RATE_OVER_S = 30.0
_PLAIN_EVERY_S = 10.0
_POLL_S = 1.0


class ProgressDisplay:
    """Shows shards, frames, persons and answers so far, rates now and overall, failures and the time left.

    On a terminal, the display is drawn in place. Elsewhere, a line is printed at most every ten seconds.

    Args:
        terminal: Where it is drawn.
        sizes: Size of each planned shard in bytes, by its id.
    """

    def __init__(self, terminal: TextIO, sizes: Mapping[str, int]) -> None:
        self._console = Console(file=terminal, stderr=True)
        self._totals = Totals()
        self._snapshot = Snapshot()
        self._started = time.monotonic()
        self._recent: deque[tuple[float, int, int, int]] = deque()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("shards"),
            TextColumn("{task.fields[left]}"),
            auto_refresh=False,
            console=self._console,
        )
        self._shards = len(sizes)
        self._task = self._bar.add_task("starting", total=len(sizes), left="")
        self._time_left = TimeLeft(sizes)
        self._live = Live(
            self, console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip
        self._plain_at = self._started

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def add(self, summary: ShardSummary) -> None:
        """Count a shard that was committed or couldn't be."""
        self._totals.add(summary)
        self._time_left.add(summary)
        total = self._shards + self._totals.rests
        self._bar.update(self._task, advance=1, total=total, description="running")
        self.refresh(self._snapshot)

    def refresh(self, snapshot: Snapshot) -> None:
        """Update the display."""
        self._snapshot = snapshot
        now = time.monotonic()
        self._bar.update(self._task, left=self._time_left.text(now, snapshot))
        self._recent.append((now, self._frames, self._persons, snapshot.answers))
        while now - self._recent[0][0] > _RATE_OVER_S:
            self._recent.popleft()
        if self._console.is_terminal:
            self._live.refresh()
        elif now - self._plain_at >= _PLAIN_EVERY_S:
            self._plain_at = now
            self.say(self._line())

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self._console.print(Text(text), soft_wrap=True)

    @property
    def _frames(self) -> int:
        return max(self._snapshot.frames, self._totals.frames["total"])

    @property
    def _persons(self) -> int:
        return max(self._snapshot.persons, self._totals.persons["kept"])

    def _rates(self, position: int, count: int) -> str:
        first, last = self._recent[0], self._recent[-1]
        # The tracker counts from zero again after its node was lost.
        now = max(0, last[position] - first[position]) / max(last[0] - first[0], _POLL_S)
        return (
            f"{count:,} ({now:.1f}/s now, {count / max(time.monotonic() - self._started, 1):.1f}/s overall)"
        )

    def _failed(self) -> str:
        shards, frames = self._totals.shards, self._totals.frames
        postponed = f", {shards['postponed']:,} postponed" if shards["postponed"] else ""
        return f"{counted(shards['failed'], 'shard')}, {counted(frames['failed'], 'frame')}{postponed}"

    def _line(self) -> str:
        task = self._bar.tasks[0]
        left = f", {task.fields['left']}" if task.fields["left"] else ""
        answers = f"answers {self._rates(3, self._snapshot.answers)}, " if self._snapshot.answers else ""
        return (
            f"{task.completed:.0f} of {counted(int(task.total or 0), 'shard')}, "
            f"frames {self._rates(1, self._frames)}, persons {self._rates(2, self._persons)}, "
            f"{answers}failed {self._failed()}{left}"
        )

    def __rich__(self) -> Group:
        numbers = Table.grid(padding=(0, 2))
        numbers.add_row("frames", self._rates(1, self._frames) if self._recent else "0")
        numbers.add_row("persons", self._rates(2, self._persons) if self._recent else "0")
        if self._snapshot.answers:
            numbers.add_row("answers", self._rates(3, self._snapshot.answers))
        numbers.add_row("failed", self._failed())
        return Group(self._bar, numbers)


def watch(
    summaries: Iterator[ShardSummary],
    snapshot: Callable[[], Snapshot],
    display: ProgressDisplay,
    stall_warning_s: float,
    stall_fail_s: float,
) -> Iterator[ShardSummary]:
    """Yield summaries as they arrive, and notice when nothing moves for too long.

    A large shard may take longer than the deadline, so frames, persons and answers within it count as well.

    A separate thread waits for Ray, because a stalled run would never return control.

    Raises:
        StalledError: If nothing moved for `stall_fail_s` seconds. The message names the stages and
            shards that are stuck.
    """
    queue: Queue[ShardSummary | BaseException | None] = Queue()

    def run() -> None:
        try:
            for summary in summaries:
                queue.put(summary)
        except BaseException as error:  # noqa: BLE001  it is raised again in the watching thread
            queue.put(error)
        else:
            queue.put(None)

    Thread(target=run, name="ray-data", daemon=True).start()
    moved_at = time.monotonic()
    steps = 0
    warned = False
    while True:
        try:
            item = queue.get(timeout=_POLL_S)
        except Empty:
            seen = snapshot()
            display.refresh(seen)
            if seen.steps != steps:
                moved_at, steps, warned = time.monotonic(), seen.steps, False
            waited = time.monotonic() - moved_at
            if waited > stall_fail_s:
                raise StalledError(_stuck(waited, seen)) from None
            if waited > stall_warning_s and not warned:
                warned = True
                log.warning(_stuck(waited, seen))
                display.say(_stuck(waited, seen))
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        moved_at, warned = time.monotonic(), False
        yield item


def _stuck(waited_s: float, snapshot: Snapshot) -> str:
    where = "; ".join(f"{f.stage}: {f.shard_id} for {duration(f.for_s)}" for f in snapshot.in_flight[:5])
    where = where or "nothing (no worker could start)"
    return f"nothing moved for {duration(waited_s)}; in progress: {where}"
