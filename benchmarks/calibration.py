"""Is a calibration from 300 decisions right on unseen scenes, and are promised accuracies kept?

    python -m benchmarks.calibration [--seeds 20] [--labels 300] [--quick]

For each seed, 300 persons of demo scenes are drawn at random and decided. A calibration is fitted to them by
the code of `shopframe evaluate --calibrate`, and final values of the persons of other scenes are computed by
the code of the consolidation. `benchmarks/corrupted_answers.py` documents what is wrong with the answers.
Printed are, as means over the seeds, the expected calibration error (ECE) of each annotator before and after
and of the combination, on how many seeds the last is at most 0.02, on how many the combination is at least as
accurate as the better annotator, and on how many the promised accuracy was kept, with which coverage.

An ECE from a sample is too large: bins of a perfect model differ from the truth by chance. `unbiased` is
without what that adds on average (Kumar, Liang and Ma 2019). `by chance` is the error of any calibration
whose mean is fitted to so many labels: the mean distance of a normal variable whose variance is the mean of
p (1 - p) over the labels.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import norm

from actors.attribute import Attribute
from actors.corrections.abstention import threshold_for
from actors.corrections.calibration import AttributeCalibration, Calibration, same_values
from actors.corrections.consensus import Consensus, Given
from actors.corrections.settings import ConsensusSettings
from benchmarks.corrupted_answers import ATTRIBUTES, SKILLS, People, answers_of, as_array, people_of
from benchmarks.figures import Figures
from jobs.evaluation.calibrating import Sample, calibrate_attribute
from jobs.evaluation.reliability import reliability

PRECEDENCE = ConsensusSettings().precedence
LABELLED_EPISODES, UNSEEN_EPISODES = 250, 700
UNSEEN = 1000
"""What is added to a seed for scenes that no decision is about."""
PROMISE = 0.95
_SMALL = 0.02


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured on the unseen scenes of one seed, of one attribute.

    Attributes:
        stated: Expected calibration error of the stated confidences by annotator.
        calibrated: The same of the calibrated ones.
        combined_error: That of the combination.
        unbiased: The same without what chance adds to it.
        by_chance: The error that so many labels leave at best.
        accuracy: Accuracy by annotator.
        combined: Accuracy of the combination.
        kept: Accuracy of the values that are shown under the promise; None if none is.
        coverage: Share of the values that are shown.
        method: How the annotators were weighed.
    """

    attribute: str
    stated: dict[str, float]
    calibrated: dict[str, float]
    combined_error: float
    unbiased: float
    by_chance: float
    accuracy: dict[str, float]
    combined: float
    kept: float | None
    coverage: float
    method: str


def given_by(people: People, attribute: Attribute, seed: int) -> dict[str, Given]:
    """Return what both annotators say, as the code of final values takes it."""
    found = {}
    for name in SKILLS:
        said = answers_of(name, attribute, people, seed)
        found[name] = Given(
            pa.array([True] * len(people)),
            as_array(said.values, attribute),
            pa.array(said.confidence, pa.float32()),
            name,
            pa.array([name] * len(people)),
        )
    return found


def calibrate_on(seed: int, attribute: Attribute, labels: int) -> AttributeCalibration:
    """Decide so many persons drawn at random, and calibrate."""
    people = people_of(seed, LABELLED_EPISODES)
    drawn = np.sort(np.random.default_rng((seed, 300)).choice(len(people), labels, replace=False))
    truth = as_array(list(people.truth[attribute.name]), attribute)
    weights = np.full(len(people), len(people) / labels)
    sample = Sample(truth, given_by(people, attribute, seed), weights, people.clusters).take(drawn)
    found = calibrate_attribute(sample, attribute.name, PRECEDENCE)
    assert found is not None
    return found


def measure(seed: int, attribute: Attribute, labels: int = 300, promise: float = PROMISE) -> Result:
    """Calibrate on some scenes, and measure on others."""
    found = calibrate_on(seed, attribute, labels)
    unseen = people_of(seed + UNSEEN, UNSEEN_EPISODES)
    given = given_by(unseen, attribute, seed + UNSEEN)
    truth = as_array(list(unseen.truth[attribute.name]), attribute)
    right = {name: same_values(one.value, truth) for name, one in given.items()}
    stated = {name: _confidence(one) for name, one in given.items()}
    calibrated = {name: curve.apply(stated[name]) for name, curve in found.whole.curves.items()}
    whole, chances = _weighed(found, attribute, given, None)
    combined = same_values(whole.value, truth)
    half, scores = _weighed(found, attribute, given, promise)
    shown = scores >= threshold_for(found.held_out, promise)
    kept = same_values(half.value, truth)[shown]
    return Result(
        attribute=attribute.name,
        stated={name: _error(stated[name], right[name]) for name in given},
        calibrated={name: _error(calibrated[name], right[name]) for name in given},
        combined_error=_error(chances, combined),
        unbiased=unbiased_error(chances, combined),
        by_chance=float(np.sqrt(2 / np.pi * np.mean(chances * (1 - chances)) / labels)),
        accuracy={name: float(one.mean()) for name, one in right.items()},
        combined=float(combined.mean()),
        kept=float(kept.mean()) if len(kept) else None,
        coverage=float(shown.mean()),
        method="none" if found.whole.weighing is None else found.whole.weighing.method,
    )


def _weighed(
    found: AttributeCalibration, attribute: Attribute, given: dict[str, Given], promise: float | None
) -> tuple[Given, NDArray[np.float64]]:
    kept = Calibration(decisions=0, decisions_digest="", min_labels=0, attributes={attribute.name: found})
    consensus = Consensus(PRECEDENCE, kept, {} if promise is None else {"": promise})
    weighed = consensus.weighed(attribute.name, given)
    assert weighed is not None
    return weighed


def _confidence(one: Given) -> NDArray[np.float64]:
    return np.asarray(one.confidence.to_numpy(zero_copy_only=False), np.float64)


def _error(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    found = reliability(sure, right)
    assert found is not None
    return found.expected_calibration_error


def unbiased_error(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error without what chance adds to the gaps of its bins."""
    found = reliability(sure, right)
    assert found is not None
    n = np.array([one.n for one in found.bins])
    accuracy = np.array([one.accuracy for one in found.bins])
    gap = np.abs(accuracy - np.array([one.confidence for one in found.bins]))
    spread = np.maximum(np.sqrt(accuracy * (1 - accuracy) / n), 1e-9)
    # The mean of the absolute value of a normal variable around the gap.
    by_chance = spread * np.sqrt(2 / np.pi) * np.exp(-((gap / spread) ** 2) / 2)
    by_chance += gap * (1 - 2 * norm.cdf(-gap / spread))
    return max(0.0, float(np.average(2 * gap - by_chance, weights=n)))


def _lines(results: list[Result]) -> Iterator[str]:
    names = list(SKILLS)
    yield (
        f"{'attribute':16} {'ECE stated':>12} {'calibrated':>12} {'combined':>9} {'unbiased':>9} "
        f"{'by chance':>9} {'<= 0.02':>8} {'accuracy':>12} {'combined':>9} {'at least':>9} {'kept':>6} "
        f"{'coverage':>9}  weighing"
    )
    for attribute in ATTRIBUTES:
        some = [one for one in results if one.attribute == attribute.name]
        stated, calibrated, accuracy = (
            " ".join(f"{np.mean([getattr(one, part)[name] for one in some]):.3f}" for name in names)
            for part in ("stated", "calibrated", "accuracy")
        )
        combined, unbiased, chance, right, coverage = (
            np.mean([getattr(one, part) for one in some])
            for part in ("combined_error", "unbiased", "by_chance", "combined", "coverage")
        )
        small = sum(one.combined_error <= _SMALL for one in some)
        better = sum(one.combined >= max(one.accuracy.values()) for one in some)
        kept = sum(one.kept is None or one.kept >= PROMISE for one in some)
        methods = Counter(one.method for one in some).most_common()
        yield (
            f"{attribute.name:16} {stated:>12} {calibrated:>12} {combined:>9.3f} {unbiased:>9.3f} "
            f"{chance:>9.3f} {small:>5}/{len(some)} {accuracy:>12} {right:>9.3f} {better:>6}/{len(some)} "
            f"{kept:>3}/{len(some)} {coverage:>9.0%}  {', '.join(f'{name} {n}' for name, n in methods)}"
        )


def _add_figures(figures: Figures, results: list[Result]) -> None:
    by_attribute = {a.name: [one for one in results if one.attribute == a.name] for a in ATTRIBUTES}
    errors = {name: _mean(one.combined_error for one in some) for name, some in by_attribute.items()}
    worst = max(errors, key=lambda name: errors[name])
    what = "mean calibration error of final values, worst attribute"
    figures.add(what, errors[worst], at_most=_SMALL, note=worst)
    gains = {
        name: _mean(one.combined for one in some)
        - max(_mean(one.accuracy[annotator] for one in some) for annotator in SKILLS)
        for name, some in by_attribute.items()
    }
    worst = min(gains, key=lambda name: gains[name])
    what = "accuracy beyond the better annotator, worst attribute"
    figures.add(what, 100 * gains[worst], "points", at_least=0, note=worst)
    kept = {
        name: _mean(one.kept is None or one.kept >= PROMISE for one in some)
        for name, some in by_attribute.items()
    }
    worst = min(kept, key=lambda name: kept[name])
    what = f"seeds whose promise of {PROMISE} is kept, worst attribute"
    figures.add(what, 100 * kept[worst], "%", at_least=95, note=worst)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="take one seed, to check that it runs")
    given = parser.parse_args()
    seeds = range(1 if given.quick else given.seeds)
    results = [measure(seed, attribute, given.labels) for seed in seeds for attribute in ATTRIBUTES]
    print("\n".join(_lines(results)))
    _add_figures(Figures("calibration", given.quick), results)


if __name__ == "__main__":
    main()
