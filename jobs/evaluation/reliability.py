"""Calibration: whether answers with a confidence of 0.9 are right nine times in ten."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binned_statistic

BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The answers with a confidence in [low, high). The last bin includes `high`."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence compared with accuracy.

    Attributes:
        n: Number of answers that have a confidence.
        expected_calibration_error: Mean over these answers of the distance between the accuracy and the
            mean confidence of their bin (Naeini et al., "Obtaining well calibrated probabilities using
            Bayesian binning", AAAI 2015), with ten bins of equal width.
        mean_confidence: Mean confidence. If it is above the accuracy, the annotator is overconfident.
        bins: The bins that are not empty, in order.
    """

    n: int
    expected_calibration_error: float
    mean_confidence: float
    bins: tuple[ReliabilityBin, ...]


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Reliability | None:
    """Compare the confidence of answers with their correctness.

    Args:
        confidence: [n] probability 0..1 of the chosen value.
        correct: [n] whether the chosen value is the true one.

    Returns:
        The comparison, or None if n is 0.
    """
    if len(confidence) == 0:
        return None
    means, edges, _ = binned_statistic(
        confidence, [correct.astype(float), confidence], "mean", bins=BINS, range=(0, 1)
    )
    counts, _ = np.histogram(confidence, edges)
    filled = np.flatnonzero(counts)
    gaps = np.abs(means[0] - means[1])[filled]
    return Reliability(
        n=len(confidence),
        expected_calibration_error=float(np.average(gaps, weights=counts[filled])),
        mean_confidence=float(confidence.mean()),
        bins=tuple(
            ReliabilityBin(
                round(float(edges[i]), 6),
                round(float(edges[i + 1]), 6),
                int(counts[i]),
                float(means[1][i]),
                float(means[0][i]),
            )
            for i in filled
        ),
    )
