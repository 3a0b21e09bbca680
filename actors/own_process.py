"""Call a function in a process of its own, whose memory and libraries are gone afterwards."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from actors.errors import WeightsError
from actors.telemetry import refuse_telemetry

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


def _be_quiet() -> None:
    """Discard what nncf and its dependencies write, and keep them from reporting their use."""
    refuse_telemetry()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    logging.disable()
