"""The requests that this process has sent to S3 stores, counted by operation and result.

botocore tells of each response, so requests that it sends again by itself are counted as well.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import fsspec

from actors.records import RequestCounts
from actors.storage.store_errors import THROTTLED

_counted: Counter[tuple[str, str]] = Counter()
_counted_elsewhere: Counter[tuple[str, str]] = Counter()
"""Kept apart, because a thread of fsspec adds to the other."""


def counted_so_far() -> RequestCounts:
    """Return the requests of this process since its start, and those that others have sent for it."""
    return dict(_counted + _counted_elsewhere)


def count_also(requests: RequestCounts) -> None:
    """Count requests that another process has sent for this one."""
    _counted_elsewhere.update(requests)


class NewRequests:
    """The requests of this process that were not reported yet."""

    def __init__(self) -> None:
        self._reported: Counter[tuple[str, str]] = Counter()

    def take(self) -> RequestCounts:
        """Return what has been counted since the last call."""
        now = Counter(counted_so_far())
        new, self._reported = now - self._reported, now
        return dict(new)


def count_requests(fs: fsspec.AbstractFileSystem) -> None:
    """Count the requests of an s3fs filesystem from now on, unless they are counted already."""
    if fs.session is None:
        from aiobotocore.session import AioSession

        # This is the session that s3fs makes when it connects.
        fs.session = AioSession(**fs.kwargs)
        fs.session.register("response-received.s3", _count)


def _count(event_name: str, parsed_response: dict[str, Any] | None, **_: object) -> None:
    _counted[event_name.rpartition(".")[2], _result_of(parsed_response)] += 1


def _result_of(response: dict[str, Any] | None) -> str:
    """Return the result of a request; None is the response of a store that could not be reached."""
    if response is None:
        return "failed"
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status == 429 or response.get("Error", {}).get("Code") in THROTTLED:
        return "throttled"
    # These answers are expected: an object that isn't there, and a conditional write that another has won.
    if status < 400 or status in (404, 409, 412, 416):
        return "ok"
    return "refused" if status < 500 else "failed"
