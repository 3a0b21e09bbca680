"""An event loop whose time passes only while nothing else can happen, so that hours take seconds.

Real servers and clients speak over loopback in this loop, and threads write to real stores. The time stands
still while any of them has something to do; otherwise it jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.threads_at_work = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        if self.threads_at_work or timeout is None:
            # A thread that ends wakes the loop.
            return super().select(None)
        self.time += timeout
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """The loop. Run coroutines in it with `run_simulated`."""

    def __init__(self, start: float) -> None:
        self._simulated = _Selector()
        self._simulated.time = start
        super().__init__(self._simulated)
        # Timers that are due at this very moment fire only if the resolution is above that of the seconds
        # since the epoch as a float.
        self._clock_resolution = 1e-5

    def time(self) -> float:
        return self._simulated.time

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        self._simulated.threads_at_work += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._has_ended)
        return future

    def _has_ended(self, _: asyncio.Future[Any]) -> None:
        self._simulated.threads_at_work -= 1


class LoopClock:
    """The time of the running loop, for the quota and for the local server."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run_simulated(start: float, run: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine in a new loop whose time begins at `start`, in seconds since the epoch."""
    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(start)) as runner:
        return runner.run(run())
