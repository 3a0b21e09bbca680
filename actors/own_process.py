"""Call a function in a process of its own, whose memory and libraries are gone after it, or in several."""

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
from typing import TypeVar

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
    because memory is short, the function is called in this process for all arguments that are left, so it
    must be possible to call it again.

    Args:
        function: The function.
        arguments: Its arguments. Both they and the results are pickled.
        processes: Number of processes.
    """
    context = multiprocessing.get_context("spawn")
    pending: deque[tuple[_Argument, Future[_Result] | None]] = deque()
    with ProcessPoolExecutor(processes, context, initializer=_end_with_parent) as pool:
        try:
            for argument in arguments:
                pending.append((argument, _submitted(pool, function, argument)))
                if len(pending) >= 2 * processes:
                    yield _result_of(function, *pending.popleft())
            while pending:
                yield _result_of(function, *pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _submitted(
    pool: ProcessPoolExecutor, function: Callable[[_Argument], _Result], argument: _Argument
) -> Future[_Result] | None:
    try:
        return pool.submit(function, argument)
    except BrokenProcessPool:
        return None


def _result_of(
    function: Callable[[_Argument], _Result], argument: _Argument, future: Future[_Result] | None
) -> _Result:
    if future is not None:
        try:
            return future.result()
        except BrokenProcessPool as error:
            log.warning("a process of several died; its work is done by one: %s", error)
    return function(argument)


def _end_with_parent() -> None:
    """End this process when its parent ends, and leave it to the parent what Ctrl-C means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _be_quiet() -> None:
    """Discard what nncf and its dependencies write, and keep them from reporting their use."""
    refuse_telemetry()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    logging.disable()
