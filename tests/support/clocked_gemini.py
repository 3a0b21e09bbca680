"""`shopframe gemini` by the clock of a local Gemini server.

The arguments are the URL of the server, how the clock goes, and a command line. The clock is "standing": it
moves only while the run waits. Or it is "running", as fast as the server's. "standing+300" is 300 s ahead.

This runs as a script, because Ray pickles classes of the main script by value for the actor.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from functools import partial
from typing import Any

from jobs.cli import main
from jobs.run import gemini_drain
from tests.support.forking_ray import fork_workers

URL, MODE = sys.argv[1:3]
MODE, _, AHEAD_S = MODE.partition("+")


def state(change: object = None) -> Any:
    """Return the state of the server's clock, after a change if one is given."""
    body = None if change is None else json.dumps(change).encode()
    with urllib.request.urlopen(f"{URL}/_server/clock", body, timeout=30) as answer:
        return json.load(answer)


class Standing:
    """A wait sets the server's clock forward."""

    def now(self) -> float:
        return state()["now"] + float(AHEAD_S or 0)

    async def sleep(self, seconds: float) -> None:
        await asyncio.to_thread(state, {"advance": seconds})


class Running:
    """It goes as fast as the server's."""

    def now(self) -> float:
        return state()["now"]

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / state()["speed"])


if __name__ == "__main__":
    clock = {"standing": Standing, "running": Running}[MODE]()
    gemini_drain.drain = partial(gemini_drain.drain, clock=clock)
    fork_workers()
    main(sys.argv[3:])
