"""Fit a calibration to gold labels: what cross-validates best, and nothing below a number of labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from actors.attribute import Attribute
from actors.attributes import AttributeSchema
from actors.corrections.calibration import (
    AttributeCalibration,
    Calibration,
    Curve,
    Fit,
    HeldOut,
    asked_with,
    logit,
    same_values,
)
from actors.corrections.consensus import Consensus, Given
from jobs.evaluation.estimates import effective_size
from jobs.evaluation.gold import Gold
from jobs.evaluation.gold_accuracy import said_in
from jobs.evaluation.weighing import Answered, Judged, fit_weighing

MIN_LABELS = 100
"""Decisions about an annotator's answers below which an attribute is not calibrated."""
FOLDS = 5
_SEED = 14

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sample:
    """Gold labels of one attribute, of n persons.

    Attributes:
        truth: [n] the true values.
        given: What annotators say, by annotator.
        weights: [n] one over the probability of inclusion.
        clusters: [n] the cluster of each person.
    """

    truth: pa.Array
    given: dict[str, Given]
    weights: Floats
    clusters: Ints

    def take(self, rows: Ints) -> Sample:
        """Return some of the persons."""
        at = pa.array(rows)
        given = {name: one.take(at) for name, one in self.given.items()}
        return Sample(self.truth.take(at), given, self.weights[rows], self.clusters[rows])


def calibrate(gold: Gold, attributes: AttributeSchema, precedence: tuple[str, ...]) -> Calibration:
    """Fit a calibration to gold labels.

    Integers are left out: two numbers are rarely equal, so being exactly right is no measure of them.

    Args:
        gold: The gold labels.
        attributes: The attributes.
        precedence: Sources of values, as configured. Annotators that it lacks are left out.
    """
    found = {}
    for attribute in attributes:
        if attribute.type == "integer":
            continue
        sample = sample_of(gold, attribute, precedence)
        made = calibrate_attribute(sample, attribute.name, precedence)
        if made is not None:
            found[attribute.name] = made
    return Calibration(
        decisions=sum(len(of) for of in gold.truth.values()),
        decisions_digest=gold.digest,
        min_labels=MIN_LABELS,
        attributes=found,
    )


def sample_of(gold: Gold, attribute: Attribute, precedence: tuple[str, ...]) -> Sample:
    """Return the gold labels of an attribute."""
    rows, truth, weights = gold.about(attribute)
    table = gold.rows.take(pa.array(rows))
    given = {}
    for name in precedence:
        said = said_in(table, name, attribute)
        if said is None:
            continue
        columns = {part: table[f"{name}_{part}"] for part in ("model", "model_version", "prompt_sha256")}
        confidence = f"{name}_confidence_{attribute.name}"
        sure = (
            table[confidence].combine_chunks()
            if confidence in table.column_names
            else pa.nulls(len(rows), pa.float32())
        )
        values = pa.array(said.values, attribute.plain_arrow_type)
        given[name] = Given(pa.array(said.is_given), values, sure, name, asked_with(columns))
    return Sample(pa.array(truth, attribute.plain_arrow_type), given, weights, gold.clusters[rows])


def calibrate_attribute(
    sample: Sample, attribute: str, precedence: tuple[str, ...]
) -> AttributeCalibration | None:
    """Fit an attribute to all its labels and to half of them, or return None if there are too few."""
    whole = fit(sample, MIN_LABELS)
    if not whole.curves:
        return None
    names = np.unique(sample.clusters)
    chosen = np.random.default_rng(_SEED).permutation(names)[: len(names) // 2]
    is_seen = np.isin(sample.clusters, chosen)
    half = fit(sample.take(np.flatnonzero(is_seen)), MIN_LABELS // 2)
    left = sample.take(np.flatnonzero(~is_seen))
    # What the half says about the other half is computed by the code that computes final values.
    only = Calibration(
        decisions=0,
        decisions_digest="",
        min_labels=MIN_LABELS,
        attributes={
            attribute: AttributeCalibration(
                whole=half, half=half, held_out=HeldOut(scores=(), right=(), weights=(), worth=1.0)
            )
        },
    )
    weighed = Consensus(precedence, only).weighed(attribute, left.given)
    held_out = HeldOut(scores=(), right=(), weights=(), worth=1.0)
    if weighed is not None and len(left.weights):
        values, scores = weighed
        usable = np.isfinite(scores)
        right = same_values(values.value, left.truth)[usable]
        if usable.any():
            size = effective_size(right, left.weights[usable], left.clusters[usable])
            held_out = HeldOut(
                scores=tuple(scores[usable].tolist()),
                right=tuple(right.tolist()),
                weights=tuple(left.weights[usable].tolist()),
                worth=1.0 if right.all() else min(1.0, size / int(usable.sum())),
            )
    return AttributeCalibration(whole=whole, half=half, held_out=held_out)


def fit(sample: Sample, least: int) -> Fit:
    """Fit curves and, for two annotators, how they are weighed.

    Args:
        sample: The gold labels.
        least: Labels below which an annotator has no curve.
    """
    curves = {}
    for name, one in sample.given.items():
        rows = np.flatnonzero(_array(one.is_given))
        if len(rows) >= least and one.asked_with is not None:
            some = sample.take(rows)
            right = same_values(some.given[name].value, some.truth)
            confidence = _array(some.given[name].confidence).astype(np.float64)
            asked = tuple(sorted(set(some.given[name].asked_with.to_pylist())))  # type: ignore[union-attr]
            curves[name] = fit_curve(confidence, right, some.weights, some.clusters, asked)
    weighing = None
    if len(curves) == 2:
        first, second = (sample.given[name] for name in curves)
        both = np.flatnonzero(_array(first.is_given) & _array(second.is_given))
        if len(both) >= least:
            some = sample.take(both)
            one_said, other_said = (_answered(some, name) for name in curves)
            judged = Judged((one_said, other_said), some.truth, some.weights, some.clusters)
            weighing = fit_weighing(judged, [curves[name] for name in curves], folds)
    return Fit(curves=curves, weighing=weighing)


def _answered(sample: Sample, name: str) -> Answered:
    one = sample.given[name]
    confidence = _array(one.confidence).astype(np.float64)
    return Answered(name, one.value, same_values(one.value, sample.truth), confidence)


def fit_curve(
    confidence: Floats, right: Bools, weights: Floats, clusters: Ints, asked: tuple[str, ...]
) -> Curve:
    """Return the curve that cross-validates best.

    Args:
        confidence: [n] confidences of an annotator's answers, NaN where there is none.
        right: [n] whether they are right.
        weights: [n] one over the probability of inclusion.
        clusters: [n] the cluster of each person. Those of one are in one fold.
        asked: Models and prompts of the answers.
    """
    losses = {}
    for method in METHODS:
        predicted = np.full(len(right), np.nan)
        for seen, unseen in folds(clusters):
            curve = curve_by(method, confidence[seen], right[seen], weights[seen])
            predicted[unseen] = curve.apply(confidence[unseen])
        losses[method] = log_loss(predicted, right, weights)
    # Of equally good ones, the first is the simplest.
    best = min(losses, key=lambda method: round(losses[method], 6))
    found = curve_by(best, confidence, right, weights)
    return found.model_copy(update={"asked_with": asked, "log_loss": losses})


def curve_by(method: str, confidence: Floats, right: Bools, weights: Floats) -> Curve:
    """Fit one kind of curve. Where it can't be fitted, the curve is constant."""
    known = ~np.isnan(confidence)
    base = {
        "unsure": smoothed(right[~known], weights[~known]) if (~known).any() else smoothed(right, weights),
        "asked_with": (),
        "labels": len(right),
        "log_loss": {},
    }
    sure, hits, weigh = confidence[known], right[known], weights[known]
    made: dict[str, Any] = {"method": "constant", "intercept": float(logit(np.array(smoothed(hits, weigh))))}
    if method != "constant" and 0 < hits.sum() < len(hits):
        made = _FITTED[method](sure, hits, weigh / weigh.mean())
    return Curve(**base, **made)


def _by_line(through_zero: bool, sure: Floats, hits: Bools, weigh: Floats) -> dict[str, Any]:
    model = LogisticRegression(C=_LOOSE, fit_intercept=not through_zero)
    model.fit(logit(sure)[:, None], hits, weigh)
    intercept = 0.0 if through_zero else float(model.intercept_[0])
    method = "temperature" if through_zero else "sigmoid"
    return {"method": method, "intercept": intercept, "slope": float(model.coef_[0, 0])}


def _by_steps(sure: Floats, hits: Bools, weigh: Floats) -> dict[str, Any]:
    # A step of few persons is never quite certain.
    least = 1 / (len(hits) + 2)
    model = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(sure, hits, weigh)
    points, shares = model.X_thresholds_.tolist(), model.y_thresholds_.tolist()
    return {"method": "isotonic", "confidences": tuple(points), "probabilities": tuple(shares)}


_LOOSE = 100.0
"""Inverse strength of a regularisation that only keeps separable labels from infinite slopes."""
_FITTED: dict[str, Callable[[Floats, Bools, Floats], dict[str, Any]]] = {
    "temperature": partial(_by_line, True),
    "sigmoid": partial(_by_line, False),
    "isotonic": _by_steps,
}
METHODS = ("constant", *_FITTED)


def folds(clusters: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield rows to fit to and rows to predict, all of a cluster on one side."""
    number = min(FOLDS, len(np.unique(clusters)))
    if number < 2:
        rows = np.arange(len(clusters))
        yield rows, rows
        return
    splits = GroupKFold(number, shuffle=True, random_state=_SEED).split(clusters, groups=clusters)
    for seen, unseen in splits:
        yield np.asarray(seen, np.int64), np.asarray(unseen, np.int64)


def smoothed(hits: Bools, weights: Floats) -> float:
    """Return a share to which half a hit and half a miss are added, so that it is never 0 or 1."""
    if not len(hits):
        return 0.5
    scaled = weights / weights.mean()
    return float(((hits * scaled).sum() + 0.5) / (len(hits) + 1))


def log_loss(predicted: Floats, right: Bools, weights: Floats) -> float:
    """Return the weighted mean of the negative log of the probability of what was the case."""
    sure = np.clip(np.where(right, predicted, 1 - predicted), 1e-6, 1)
    return float(np.average(-np.log(sure), weights=weights))


def _array(values: pa.Array) -> Any:
    return values.to_numpy(zero_copy_only=False)
