"""`shopframe status --watch`: the state of an output, looked at again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.run.summary import print_summary
from jobs.run.words import counted, wait_of


def watch_status(
    console: Console,
    look: Callable[[], dict[str, Any]],
    every_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show the state of an output until nothing is left to do.

    On a terminal the summary is drawn in place. Elsewhere a line is printed whenever it has changed. At the
    end, the summary is printed in both cases. If the store can't be reached for a while, the state that was
    seen last stays, with the reason.

    Args:
        console: Where it is shown.
        look: Returns the state, as `output_status` does.
        every_s: Seconds between two looks.
        sleep: Waits for so many seconds.
    """
    status: dict[str, Any] = {}
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            for status, problem in _states(look, every_s, sleep):
                live.update(_drawn(console, status, problem), refresh=True)
    else:
        said = ""
        for status, problem in _states(look, every_s, sleep):
            line = problem or status_line(status)
            if line != said:
                said = line
                console.print(Text(line), soft_wrap=True)
    print_summary(console, status, {})


def is_done(status: dict[str, Any]) -> bool:
    """Return whether every shard has a result and nobody waits for Gemini."""
    quota = status["quota"]
    return not status["shards"]["pending"] and not (quota and quota["persons_waiting"])


def status_line(status: dict[str, Any]) -> str:
    """Return the state of an output in one line."""
    shards, quota = status["shards"], status["quota"]
    line = (
        f"{shards['done']:,} of {counted(shards['total'], 'shard')} done, {shards['failed']:,} failed, "
        f"{counted(status['frames']['total'], 'frame')}, {counted(status['persons']['kept'], 'person')}"
    )
    return f"{line}, {wait_of(quota['persons_waiting'])} for Gemini" if quota else line


def _states(
    look: Callable[[], dict[str, Any]], every_s: float, sleep: Callable[[float], None]
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield the state, and why it is not the newest one, until everything is done."""
    status, problem = look(), None
    yield status, problem
    while problem or not is_done(status):
        sleep(every_s)
        try:
            status, problem = look(), None
        except STORAGE_ERRORS as error:
            problem = f"{status['output']}: {storage_error_text(error)}; trying again"
        yield status, problem


def _drawn(console: Console, status: dict[str, Any], problem: str | None) -> Text:
    drawn = StringIO()
    target = Console(file=drawn, force_terminal=True, width=console.width, color_system="standard")
    print_summary(target, status, {})
    seen = time.strftime("%H:%M:%S")
    target.print(Text(problem or f"seen at {seen}; Ctrl-C ends the watch"), style="dim", soft_wrap=True)
    return Text.from_ansi(drawn.getvalue())
