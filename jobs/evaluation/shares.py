"""Shares among the persons of an archive: model answers on all, human decisions on a random few.

Prediction-powered inference (Angelopoulos et al. 2023) with the tuned weight of the model's answers
(Angelopoulos, Duchi and Zrnic 2023): the difference estimator of survey sampling, with variance by clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from jobs.evaluation.estimates import LEVEL, NOTHING, Estimate, wilson

Floats = NDArray[np.float64]

MIN_LABELS = 20
"""Labelled persons below which there is no interval."""
_UNSEEN = 1.92
"""What unseen disagreements are taken to be, half the square of the quantile, as Agresti and Coull do."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The n persons that were drawn and decided.

    Attributes:
        truth: [n] 1 where the person has the value, else 0; 0 if there is no person.
        is_person: [n] 1 where the detection shows a person, else 0.
        predicted: [n] 1 where the model gives the value, else 0.
        probability: [n] probability with which the person was drawn.
        clusters: int64 [n] the cluster of each person.
    """

    truth: Floats
    is_person: Floats
    predicted: Floats
    probability: Floats
    clusters: NDArray[np.int64]


def estimate_share(
    predicted: float, persons: int, labelled: Labelled, trust: float | None = None
) -> Estimate:
    """Return the share of a value among all persons, with its interval.

    From too few labelled persons it is the model's share, without an interval.

    Args:
        predicted: Number of detections of which the model gives the value.
        persons: Number of detections.
        labelled: The persons that were drawn and decided.
        trust: Weight of the model's answers; 0 leaves them out. By default the one with the smallest
            variance, between 0 and 1.
    """
    n = len(labelled.truth)
    if not persons:
        return NOTHING
    few = n < MIN_LABELS or len(np.unique(labelled.clusters)) < 2
    if not n or (few and trust is None):
        # A handful says less than the model: of one person, it is all or nothing.
        return Estimate(predicted / persons, None, None, n)
    weights = 1 / labelled.probability
    total = weights.sum()
    # Of the detections that show persons; all do by the model.
    real = float(np.average(labelled.is_person, weights=weights))
    if real <= 0:
        return NOTHING
    human = float(np.average(labelled.truth, weights=weights)) / real
    residual = (labelled.truth - human * labelled.is_person) / real
    weigh = _tuned(residual, labelled.predicted, weights) if trust is None else trust / real
    centred = labelled.predicted - np.average(labelled.predicted, weights=weights)
    share = human + weigh * (predicted / persons - float(np.average(labelled.predicted, weights=weights)))
    share = min(1.0, max(0.0, share))
    if few:
        return Estimate(share, None, None, n)
    influence = weights * (residual - weigh * centred) / total
    # What was decided of the archive needs no estimate, so a complete audit leaves nothing uncertain. Of an
    # audit that isn't finished, the weights stand for fewer than all persons: it is a draw of so much less.
    left = 1 - labelled.probability * min(1.0, total / persons)
    sums = np.bincount(labelled.clusters, influence * np.sqrt(left))[np.unique(labelled.clusters)]
    groups = len(sums)
    variance = float(groups / (groups - 1) * (sums**2).sum())
    kish = float(total**2 / (weights**2).sum())
    # Where model and people have hardly differed yet, they may still differ about others.
    variance = max(variance, float(left.mean()) * _UNSEEN / kish**2)
    if variance <= 0:
        return Estimate(share, share, share, n)
    if 0 < share < 1:
        quantile = float(t.ppf(0.5 + LEVEL / 2, groups - 1))
        size = share * (1 - share) / variance * (1.959964 / quantile) ** 2
        low, high = wilson(share, max(size, 1.0))
        return Estimate(share, low, high, n)
    low, high = wilson(share, kish)
    return Estimate(share, low, high, n)


def _tuned(residual: Floats, predicted: Floats, weights: Floats) -> float:
    """Return the weight of the model's answers with which the variance is smallest."""
    centred = predicted - np.average(predicted, weights=weights)
    spread = float(np.average(centred**2, weights=weights))
    if spread <= 0:
        return 0.0
    return min(1.0, max(0.0, float(np.average(residual * centred, weights=weights)) / spread))
