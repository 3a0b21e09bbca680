"""A share of a counted number of things, with how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from scipy.stats import binomtest


@dataclass(frozen=True, slots=True)
class Proportion:
    """`hits` of `n`, and Wilson's 95% interval of the share; None where `n` is 0.

    The interval takes the things for independent of each other. The same person seen in many frames
    is not, so of such persons it is too narrow.
    """

    hits: int
    n: int
    share: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, hits: int, n: int) -> Self:
        """The share `hits / n`."""
        if n == 0:
            return cls(0, 0, None, None, None)
        interval = binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
        return cls(hits, n, hits / n, float(interval.low), float(interval.high))
