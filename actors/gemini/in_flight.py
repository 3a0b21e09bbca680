"""How many requests are in flight at the same time: as many as the quota needs, and no more.

By Little's law (J. Little, 1961), the mean number of requests in flight is the rate at which they are sent
times the mean time until they are answered.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean, pstdev
from typing import Annotated, Literal

from pydantic import Field

from actors.gemini.quota.rules import QuotaLimits

MOST_IN_FLIGHT = 256

MaxInFlight = Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_IN_FLIGHT)]

_RECENT = 50
"""Number of answers by which the latency is measured."""

_SHARE_OF_DAY = 50
"""At most this part of a day's requests is in flight, since an outage or a kill can cost all of them."""

_LONG_LATENCY_S = 10.0
"""A latency that is rarely exceeded."""


class InFlightWindow:
    """The number of requests that may be in flight.

    Args:
        setting: `gemini.max_in_flight`.
        limits: The configured quota.

    Attributes:
        size: The number of requests that may be in flight now. `auto` begins with one.
    """

    def __init__(self, setting: MaxInFlight, limits: QuotaLimits) -> None:
        self.size = 1 if setting == "auto" else setting
        self._setting = setting
        self._limits = limits
        self._latencies_s: deque[float] = deque(maxlen=_RECENT)
        self._tokens: deque[int] = deque(maxlen=_RECENT)

    def answered(self, latency_s: float, tokens: int) -> None:
        """Take into account how long a request took until its answer was written down, and its tokens."""
        if self._setting != "auto":
            return
        self._latencies_s.append(max(0.0, latency_s))
        self._tokens.append(max(1, tokens))
        a_minute: float = self._limits.requests_per_minute
        if self._limits.tokens_per_minute is not None:
            a_minute = min(a_minute, self._limits.tokens_per_minute / fmean(self._tokens))
        # With the mean alone, slow answers would hold back requests that the quota allows.
        usual_s = fmean(self._latencies_s) + pstdev(self._latencies_s)
        # Rounding errors must not turn 1 into 2.
        needed = math.ceil(a_minute / 60 * usual_s - 1e-6)
        self.size = max(1, min(needed, most_in_flight(self._limits)))


def most_in_flight(limits: QuotaLimits) -> int:
    """Return the largest number of requests in flight that `auto` chooses."""
    if limits.requests_per_day is None:
        return MOST_IN_FLIGHT
    return max(1, min(MOST_IN_FLIGHT, limits.requests_per_day // _SHARE_OF_DAY))


def persons_ahead(setting: MaxInFlight, limits: QuotaLimits, persons_per_request: int) -> int:
    """Return how many persons should be in progress to fill the requests in flight and as many after them."""
    if setting == "auto":
        needed = math.ceil(limits.requests_per_minute / 60 * _LONG_LATENCY_S)
        requests = min(needed, most_in_flight(limits))
    else:
        requests = setting
    return 2 * requests * persons_per_request
