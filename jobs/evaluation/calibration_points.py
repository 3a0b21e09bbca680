"""How often answers are right that an annotator is about equally sure of, by random decisions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.attribute import Attribute
from jobs.evaluation.estimates import Estimate, share_of
from jobs.evaluation.gold import Gold
from jobs.evaluation.gold_accuracy import said_in

MIN_ANSWERS = 40
"""Decided answers with a confidence below which there are no points."""
_PER_POINT = 20
_MOST_POINTS = 8


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """Some answers that an annotator is about equally sure of.

    Attributes:
        stated: Mean of the stated confidences, weighted as the persons are.
        right: Share of right answers among all such answers.
    """

    stated: float
    right: Estimate


def calibration_points(gold: Gold, attribute: Attribute, annotator: str) -> list[CalibrationPoint]:
    """Return how often answers are right by their stated confidence, in groups of about equal size.

    Args:
        gold: The gold labels.
        attribute: The attribute.
        annotator: The annotator.

    Returns:
        The points in the order of the confidences; none from fewer than `MIN_ANSWERS` answers.
    """
    column = f"{annotator}_confidence_{attribute.name}"
    said = said_in(gold.rows, annotator, attribute)
    if said is None or column not in gold.rows.column_names:
        return []
    rows, truth, weights = gold.about(attribute)
    stated = _floats(gold.rows[column])[rows]
    right = np.array([t == said.values[row] for t, row in zip(truth, rows.tolist(), strict=True)], np.bool_)
    usable = np.flatnonzero(said.is_given[rows] & np.isfinite(stated))
    if len(usable) < MIN_ANSWERS:
        return []
    order = usable[np.argsort(stated[usable], kind="stable")]
    groups = np.array_split(order, min(_MOST_POINTS, len(order) // _PER_POINT))
    clusters = gold.clusters[rows]
    return [
        CalibrationPoint(
            float(np.average(stated[some], weights=weights[some])),
            share_of(right[some], weights[some], clusters[some]),
        )
        for some in groups
    ]


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(), np.float64)
