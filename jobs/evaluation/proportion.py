"""A proportion with its confidence interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from scipy.stats import binomtest


@dataclass(frozen=True, slots=True)
class Proportion:
    """The share `hits / n` and its 95% Wilson interval, which are None if `n` is 0.

    The interval assumes independent observations. If the same person is seen in many frames, the
    observations are not independent and the interval is too narrow.
    """

    hits: int
    n: int
    share: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, hits: int, n: int) -> Self:
        """Return the share `hits / n` with its interval."""
        if n == 0:
            return cls(0, 0, None, None, None)
        interval = binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
        return cls(hits, n, hits / n, float(interval.low), float(interval.high))
