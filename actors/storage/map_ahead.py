"""Many small reads of a store at once, in order and with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_AT_ONCE = 8
"""A GET takes 10 to 50 ms, of which the bytes of an image are the smallest part."""


def map_ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], at_once: int = _AT_ONCE
) -> Iterator[_Result]:
    """Results in the order of the items; at most `at_once` of them are held or being worked on."""
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
