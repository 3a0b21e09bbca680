"""Call a function in new processes: once in one, whose memory is gone afterwards, or often in several."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from actors.errors import WeightsError
from actors.telemetry import refuse_telemetry

log = logging.getLogger(__name__)

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


def in_own_process(function: Callable[[_Argument], _Result], argument: _Argument, complaint: str) -> _Result:
    """Return what a function of a module returns, which is called in a new process that writes nothing.

    Args:
        function: The function.
        argument: Its argument. Both it and the result are pickled.
        complaint: The error if the process dies, for example because its memory ran out.

    Raises:
        WeightsError: The process died.
        Exception: The function raised it.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, context, initializer=_be_quiet) as pool:
            return pool.submit(function, argument).result()
    except BrokenProcessPool as error:
        raise WeightsError(complaint) from error


def map_in_processes(
    function: Callable[[_Argument], _Result], arguments: Iterable[_Argument], processes: int
) -> Iterator[_Result]:
    """Apply a function of a module in new processes, and yield the results in the order of the arguments.

    At most two arguments for each process are held in memory or in progress. If a process dies, for example
    because memory is short, or can't be started, the function is called in this process for all arguments
    that are left, so it must be possible to call it again. After an error the processes end at once.

    Args:
        function: The function.
        arguments: Its arguments. Both they and the results are pickled.
        processes: Number of processes.
    """
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(processes, context, initializer=_end_with_parent, initargs=(theirs,))
    work = _PoolWork(pool, function)
    try:
        for argument in arguments:
            work.begin(argument)
            if len(work.pending) >= 2 * processes:
                yield work.next_result()
        while work.pending:
            yield work.next_result()
    except BaseException:
        # The work in progress may take long, and nobody needs it any more.
        ours.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()
        theirs.close()


class _PoolWork(Generic[_Argument, _Result]):
    """Calls of a function by the processes of a pool, or by this one if they don't get them done."""

    def __init__(self, pool: ProcessPoolExecutor, function: Callable[[_Argument], _Result]) -> None:
        self.pending: deque[tuple[_Argument, Future[_Result] | None]] = deque()
        self._pool = pool
        self._function = function
        self._has_warned = False

    def begin(self, argument: _Argument) -> None:
        future = None
        try:
            future = self._pool.submit(self._function, argument)
        except (BrokenProcessPool, OSError) as error:
            self._warn(error)
        self.pending.append((argument, future))

    def next_result(self) -> _Result:
        argument, future = self.pending.popleft()
        if future is not None:
            try:
                return future.result()
            except BrokenProcessPool as error:
                self._warn(error)
        return self._function(argument)

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            log.warning("one of several processes died, so the rest is done by a single one: %s", error)
        self._has_warned = True


def _end_with_parent(pipe: Connection) -> None:
    """Leave Ctrl-C to the parent, and end when it closes the other end of the pipe, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end() -> None:
        with suppress(EOFError):
            pipe.recv()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _be_quiet() -> None:
    """Discard what nncf and its dependencies write, and keep them from reporting their use."""
    refuse_telemetry()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    logging.disable()
