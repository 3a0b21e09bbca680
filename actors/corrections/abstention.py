"""From which calibrated confidence values are shown, so that a promised share of them is right."""

from __future__ import annotations

import math

import numpy as np

from actors.corrections.calibration import HeldOut

_ERROR = 0.05
"""Probability, over the draw of the decisions, that the promise is broken."""
_MOST_STARTS = 8


def threshold_for(held_out: HeldOut, accuracy: float) -> float:
    """Return the smallest score from which values are shown; infinity if no score keeps the promise.

    Split conformal risk control in the form of Learn then Test (Angelopoulos et al. 2021): thresholds are
    tested in a fixed sequence, from a strict one to ever looser ones, until a Clopper-Pearson bound of the
    accuracy of the shown values is below the promise. The sequence starts in several places, which share
    the probability of an error.

    Args:
        held_out: Decisions that the scores were not fitted to.
        accuracy: The promised accuracy of shown values.
    """
    order = np.argsort(-np.array(held_out.scores), kind="stable")
    scores, right = np.array(held_out.scores)[order], np.array(held_out.right, np.bool_)[order]
    weights = np.array(held_out.weights)[order]
    # NaN is the score of a value that isn't calibrated, which is never shown. It comes last.
    usable = int(np.isfinite(scores).sum())
    if not usable:
        return math.inf
    shown = np.cumsum(weights[:usable])
    accuracies = np.cumsum((weights * right)[:usable]) / shown
    sizes = shown**2 / np.cumsum(weights[:usable] ** 2) * held_out.worth
    # Persons with the same score are shown together.
    ends = np.flatnonzero(np.append(np.diff(scores[:usable]) != 0, True))
    starts = _starts(accuracy, float(sizes[-1]))
    found = math.inf
    for least in starts:
        for end in ends[sizes[ends] >= least]:
            if _lower_bound(float(accuracies[end]), float(sizes[end]), _ERROR / len(starts)) < accuracy:
                break
            found = min(found, float(scores[end]))
    return found


def _starts(accuracy: float, size: float) -> list[float]:
    """Return the numbers of persons at which sequences start: enough to allow 0, 1, 3, 7 ... errors.

    They don't depend on what was decided, as the test requires.
    """
    starts: list[float] = []
    for number in range(1, _MOST_STARTS + 1):
        level = _ERROR / number
        more = [_allowing(2**place - 1, accuracy, level) for place in range(number)]
        if more[-1] > size:
            break
        starts = more
    return starts


def _allowing(errors: int, accuracy: float, level: float) -> float:
    """Return the smallest number of persons of whom so many may be wrong without breaking the promise."""
    from scipy.stats import beta

    least, most = errors + 1, errors + 2
    while beta.ppf(level, most - errors, errors + 1) < accuracy:
        least, most = most, 2 * most
    while least < most:
        middle = (least + most) // 2
        if beta.ppf(level, middle - errors, errors + 1) < accuracy:
            least = middle + 1
        else:
            most = middle
    return float(least)


def _lower_bound(share: float, size: float, level: float) -> float:
    """Return Clopper and Pearson's lower bound of a share of a sample of a size, which need not be whole."""
    from scipy.stats import beta

    hits = share * size
    return float(beta.ppf(level, hits, size - hits + 1)) if hits > 0 else 0.0
