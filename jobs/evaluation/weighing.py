"""Fit how two annotators' answers are weighed against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import CategoricalNB

from actors.corrections.calibration import Curve, Weighing, codes_of, logit, same_values

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Folds = Callable[[], Iterator[tuple[Ints, Ints]]]

_METHODS = ("votes", "stacked", "confusion")
_FEWEST = 8
"""Persons below whom no regression is fitted."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What one of two annotators says about n persons whom both have answered.

    Attributes:
        name: The annotator.
        values: [n] its answers.
        right: [n] whether they are right.
        confidence: [n] its confidences, NaN where there is none.
    """

    name: str
    values: pa.Array
    right: Bools
    confidence: Floats

    def take(self, rows: Ints) -> Answered:
        """Return some of the persons."""
        return Answered(self.name, self.values.take(pa.array(rows)), self.right[rows], self.confidence[rows])


def fit_weighing(
    answered: Sequence[Answered], curves: Sequence[Curve], truth: pa.Array, weights: Floats, folds: Folds
) -> Weighing:
    """Return the weighing that cross-validates best.

    Methods are compared by the log loss of which answer is right: where both agree, whether they are, and
    otherwise the first, the second, or neither.

    Args:
        answered: What both say.
        curves: Their curves.
        truth: [n] the true values.
        weights: [n] one over the probability of inclusion.
        folds: Yields rows to fit to and rows to predict.
    """
    losses = {}
    for method in _METHODS:
        loss = np.zeros(len(weights))
        for seen, unseen in folds():
            some = [one.take(seen) for one in answered]
            made = weighing_by(method, some, curves, truth.take(pa.array(seen)), weights[seen])
            loss[unseen] = _losses(made, [one.take(unseen) for one in answered], curves)
        losses[method] = float(np.average(loss, weights=weights))
    best = min(losses, key=lambda method: round(losses[method], 6))
    return weighing_by(best, answered, curves, truth, weights).model_copy(update={"log_loss": losses})


def weighing_by(
    method: str, answered: Sequence[Answered], curves: Sequence[Curve], truth: pa.Array, weights: Floats
) -> Weighing:
    """Fit one kind of weighing."""
    first, second = answered
    made: dict[str, Any] = {
        "method": method,
        "annotators": (first.name, second.name),
        "labels": len(weights),
        "log_loss": {},
    }
    scaled = weights / weights.mean() if len(weights) else weights
    if method == "confusion":
        return Weighing(**made, **_confusion(answered, truth, scaled))
    odds = np.stack(
        [logit(curve.apply(one.confidence)) for one, curve in zip(answered, curves, strict=True)], axis=1
    )
    same = same_values(first.values, second.values)
    outcome = np.where(first.right, 0, np.where(second.right, 1, 2))
    agree = _lines(odds[same], np.where(first.right[same], 0, 1), scaled[same], 2, method == "stacked")
    differ = _lines(odds[~same], outcome[~same], scaled[~same], 3, method == "stacked")
    return Weighing(
        **made, agree=tuple((agree[0] - agree[1]).tolist()), differ=tuple(map(tuple, differ.tolist()))
    )


def _lines(odds: Floats, outcome: Ints, weights: Floats, kinds: int, stacked: bool) -> Floats:
    """Return intercept and two weights for each outcome, [kinds, 3], as a multinomial regression has them."""
    found = np.zeros((kinds, 3))
    totals = np.bincount(outcome, weights, minlength=kinds) + 0.5
    found[:, 0] = np.log(totals / totals.sum())
    present = np.unique(outcome)
    if not stacked or len(outcome) < _FEWEST or len(present) < 2:
        return found
    model = LogisticRegression(C=1.0).fit(odds, outcome, weights)
    rows = np.column_stack([model.intercept_, model.coef_])
    if len(present) == 2:
        rows = np.vstack([-rows / 2, rows / 2])
    # An outcome that never was keeps its small share of persons with mean log-odds.
    middle = np.append(1.0, np.average(odds, axis=0, weights=weights))
    shift = np.log(np.exp(rows @ middle).sum()) - np.log(np.exp(found[present, 0]).sum())
    found[:, 0] += shift
    found[present] = rows
    return found


def _confusion(answered: Sequence[Answered], truth: pa.Array, weights: Floats) -> dict[str, Any]:
    """Return the tables of a naive Bayes classifier of the true value by both answers."""
    present = Counter([*truth.to_pylist(), *(value for one in answered for value in one.values.to_pylist())])
    values = tuple(sorted(present, key=lambda value: (value is None, str(value))))
    features = np.stack([codes_of(one.values, values) for one in answered], axis=1)
    classes = codes_of(truth, values)
    model = CategoricalNB(min_categories=len(values)).fit(features, classes, weights)
    prior = np.full(len(values), -20.0)
    prior[model.classes_] = model.class_log_prior_
    tables = np.full((2, len(values), len(values)), -np.log(len(values)))
    for number in range(2):
        tables[number, model.classes_] = model.feature_log_prob_[number]
    return {
        "values": values,
        "prior": tuple(prior.tolist()),
        "answers": tuple(tuple(map(tuple, table)) for table in tables.tolist()),
    }


def _losses(made: Weighing, answered: Sequence[Answered], curves: Sequence[Curve]) -> Floats:
    first, second = answered
    sure = [curve.apply(one.confidence) for one, curve in zip(answered, curves, strict=True)]
    chances = made.apply([first.values, second.values], sure)
    same = same_values(first.values, second.values)
    neither = np.where(same, 1 - chances[0], 1 - chances[0] - chances[1])
    chance = np.where(first.right, chances[0], np.where(second.right, chances[1], neither))
    loss: Floats = -np.log(np.clip(chance, 1e-6, 1))
    return loss
