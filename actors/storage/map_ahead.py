"""Make many small reads of a store concurrently, in order and with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_AT_ONCE = 8
"""Concurrent calls by default. A GET takes 10 to 50 ms, most of which is latency and not the transfer."""


def map_ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], at_once: int = _AT_ONCE
) -> Iterator[_Result]:
    """Apply a function to items in threads, and yield the results in the order of the items.

    At most `at_once` results are held in memory or in progress.
    """
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="read-ahead") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= at_once:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
