"""Shares among all persons, estimated from some that were drawn with known probabilities.

docs/statistics.md explains the estimates, what they assume, and where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

LEVEL = 0.95
"""Confidence level of all intervals."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated number with its 95% interval, which are None where nothing was drawn.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of drawn persons that it rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def times(self, factor: float) -> Estimate:
        """Return the estimate of so many times the number."""
        value, low, high = (
            None if one is None else one * factor for one in (self.value, self.low, self.high)
        )
        return Estimate(value, low, high, self.n)


NOTHING = Estimate(None, None, None, 0)


def effective_size(hits: NDArray[np.bool_], weights: Floats, clusters: Ints) -> float:
    """Return how many independent persons with equal weights would give as sure a share.

    With clusters and weights that is the share's binomial variance over its linearised cluster variance.
    Where all are hits or none is, the variance is unknown, and Kish's size is returned, for the clusters.

    Args:
        hits: [n] whether each drawn person counts.
        weights: [n] one over the probability of inclusion.
        clusters: [n] the cluster of each person, such as its frame.
    """
    share = float(np.average(hits, weights=weights))
    by_cluster = np.bincount(clusters, weights=weights)
    by_cluster = by_cluster[by_cluster > 0]
    kish = float(by_cluster.sum() ** 2 / (by_cluster**2).sum())
    groups = len(by_cluster)
    variance = _cluster_variance((hits - share) * weights / weights.sum(), clusters)
    if groups < 2 or variance <= 0 or share in (0.0, 1.0):
        return kish
    # The variance is itself estimated, from as many values as there are clusters (Korn and Graubard 1998).
    sureness = (norm.ppf(0.5 + LEVEL / 2) / t.ppf(0.5 + LEVEL / 2, groups - 1)) ** 2
    return min(float(share * (1 - share) / variance * sureness), float(len(hits)))


def share_of(hits: NDArray[np.bool_], weights: Floats, clusters: Ints) -> Estimate:
    """Return Hajek's estimate of a share, with Wilson's interval for the effective sample size.

    Args:
        hits: [n] whether each drawn person counts.
        weights: [n] one over the probability of inclusion, times what the person counts.
        clusters: [n] the cluster of each person.
    """
    if not len(hits):
        return NOTHING
    share = float(np.average(hits, weights=weights))
    low, high = wilson(share, effective_size(hits, weights, clusters))
    return Estimate(share, low, high, len(hits))


def mean_of(values: Floats, weights: Floats, clusters: Ints) -> Estimate:
    """Return Hajek's estimate of a mean, with the interval of its linearised cluster variance.

    The interval is None from fewer than two clusters. Arguments are as in `share_of`, with numbers.
    """
    if not len(values):
        return NOTHING
    mean = float(np.average(values, weights=weights))
    groups = len(np.unique(clusters))
    if groups < 2:
        return Estimate(mean, None, None, len(values))
    variance = _cluster_variance((values - mean) * weights / weights.sum(), clusters)
    half = float(t.ppf(0.5 + LEVEL / 2, groups - 1) * np.sqrt(variance))
    return Estimate(mean, mean - half, mean + half, len(values))


def mean_share(hits: NDArray[np.bool_], mentions: Floats, weights: Floats, clusters: Ints) -> Estimate:
    """Return the mean of several shares of the same persons, such as a macro F1 score.

    Args:
        hits: [k, n] whether each person counts in each of k shares.
        mentions: [k, n] what each person weighs in it, beside `weights`; 0 where it has no part in it.
        weights: [n] one over the probability of inclusion.
        clusters: [n] the cluster of each person.
    """
    totals = mentions @ weights
    used = totals > 0
    if not used.any():
        return NOTHING
    shares = ((hits * mentions) @ weights)[used] / totals[used]
    mean = float(shares.mean())
    groups = len(np.unique(clusters))
    if groups < 2:
        return Estimate(mean, None, None, len(weights))
    influence = (hits[used] - shares[:, None]) * mentions[used] * weights / totals[used, None]
    variance = _cluster_variance(influence.mean(0), clusters)
    half = float(t.ppf(0.5 + LEVEL / 2, groups - 1) * np.sqrt(variance))
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), len(weights))


def wilson(share: float, size: float) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share of a sample of a size, which need not be whole."""
    z = float(norm.ppf(0.5 + LEVEL / 2))
    middle = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(share * (1 - share) / size + z**2 / (4 * size**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def more_needed(share: float | None, n: int, size: float, width: float) -> int:
    """Return how many more random decisions an interval of a width needs, at the share as it is now.

    Args:
        share: The estimated share, or None if nothing was decided, which is taken for the worst case, a half.
        n: Decisions that there are.
        size: Their effective size; more decisions are taken to be worth as much as these.
        width: Wished width of the 95% interval, from its lower to its upper end.
    """
    worth = size / n if n else 1.0
    known = 0.5 if share is None else share

    def is_narrow(decisions: int) -> bool:
        low, high = wilson(known, decisions * worth)
        return high - low <= width

    most = max(n, 1)
    while not is_narrow(most):
        most *= 2
    least = max(n, 1)
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if is_narrow(middle) else (middle + 1, most)
    return max(0, least - n)


def _cluster_variance(influence: Floats, clusters: Ints) -> float:
    """Return the variance of a sum of influences, as far as they differ between clusters."""
    sums = np.bincount(clusters, weights=influence)[np.unique(clusters)]
    return float(len(sums) / max(1, len(sums) - 1) * (sums**2).sum())
