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

from actors.corrections.calibration import Curve, Weighing, codes_of, likelier, logit, same_values

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Folds = Callable[[Ints], Iterator[tuple[Ints, Ints]]]

METHODS = ("votes", "stacked", "confusion", "joint")
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


@dataclass(frozen=True, slots=True)
class Judged:
    """Two annotators' answers about n persons whose true values are known.

    Attributes:
        answered: What both say.
        truth: [n] the true values.
        weights: [n] one over the probability of inclusion.
        clusters: [n] the cluster of each person.
    """

    answered: tuple[Answered, Answered]
    truth: pa.Array
    weights: Floats
    clusters: Ints

    def take(self, rows: Ints) -> Judged:
        """Return some of the persons."""
        first, second = self.answered
        return Judged(
            (first.take(rows), second.take(rows)),
            self.truth.take(pa.array(rows)),
            self.weights[rows],
            self.clusters[rows],
        )


def fit_weighing(judged: Judged, curves: Sequence[Curve], folds: Folds) -> Weighing:
    """Return the weighing that cross-validates best.

    Methods are compared by the log loss of which answer is right: where both agree, whether they are, and
    otherwise the first, the second, or neither.

    Args:
        judged: What both say, and what is true.
        curves: Their curves.
        folds: Yields rows to fit to and rows to predict, from clusters.
    """
    losses = {}
    for method in METHODS:
        loss = np.zeros(len(judged.weights))
        for seen, unseen in folds(judged.clusters):
            made = weighing_by(method, judged.take(seen), curves, folds)
            loss[unseen] = _losses(made, judged.take(unseen).answered, curves)
        losses[method] = float(np.average(loss, weights=judged.weights))
    best = min(losses, key=lambda method: round(losses[method], 6))
    return weighing_by(best, judged, curves, folds).model_copy(update={"log_loss": losses})


def weighing_by(method: str, judged: Judged, curves: Sequence[Curve], folds: Folds) -> Weighing:
    """Fit one kind of weighing."""
    answered, truth, weights = judged.answered, judged.truth, judged.weights
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
    odds = [logit(curve.apply(one.confidence)) for one, curve in zip(answered, curves, strict=True)]
    same = same_values(first.values, second.values)
    if method == "joint":
        odds += likelier(_chances_unseen(judged, curves, folds), same)
        made |= _confusion(answered, truth, scaled)
    features = np.stack(odds, axis=1)
    outcome = np.where(first.right, 0, np.where(second.right, 1, 2))
    regress = method != "votes"
    agree = _lines(features[same], np.where(first.right[same], 0, 1), scaled[same], 2, regress)
    differ = _lines(features[~same], outcome[~same], scaled[~same], 3, regress)
    return Weighing(
        **made, agree=tuple((agree[0] - agree[1]).tolist()), differ=tuple(map(tuple, differ.tolist()))
    )


def _chances_unseen(judged: Judged, curves: Sequence[Curve], folds: Folds) -> tuple[Floats, Floats]:
    """Return what tables of answers say about persons that they weren't counted from.

    About those that they were, the tables are surer than about others, and a regression would trust them
    too much.
    """
    chances = np.zeros((2, len(judged.weights)))
    for seen, unseen in folds(judged.clusters):
        made = weighing_by("confusion", judged.take(seen), curves, folds)
        said = [one.values for one in judged.take(unseen).answered]
        chances[:, unseen] = made.apply(said, ())
    return chances[0], chances[1]


def _lines(features: Floats, outcome: Ints, weights: Floats, kinds: int, regress: bool) -> Floats:
    """Return intercept and weights for each outcome, [kinds, 1 + m], as a multinomial regression has them.

    Args:
        features: [n, m] what the outcome follows from.
        outcome: [n] which outcome was.
        weights: [n] weights of the persons.
        kinds: Number of outcomes.
        regress: Whether there is a regression; otherwise there are only intercepts.
    """
    found = np.zeros((kinds, 1 + features.shape[1]))
    totals = np.bincount(outcome, weights, minlength=kinds) + 0.5
    found[:, 0] = np.log(totals / totals.sum())
    present = np.unique(outcome)
    if not regress or len(outcome) < _FEWEST or len(present) < 2:
        return found
    model = LogisticRegression(C=1.0, solver="newton-cholesky").fit(features, outcome, weights)
    rows = np.column_stack([model.intercept_, model.coef_])
    if len(present) == 2:
        rows = np.vstack([-rows / 2, rows / 2])
    # An outcome that never was keeps its small share of persons with mean log-odds.
    middle = np.append(1.0, np.average(features, axis=0, weights=weights))
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
