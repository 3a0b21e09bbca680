"""Accuracy of annotators among all persons, estimated from gold labels with intervals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from actors.attribute import Attribute, AttributeValue
from actors.records import ANSWERED
from jobs.evaluation.detection_accuracy import HEIGHT_EDGES_PX
from jobs.evaluation.estimates import (
    Estimate,
    effective_size,
    mean_of,
    mean_share,
    more_needed,
    share_of,
)
from jobs.evaluation.gold import Gold

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

BANDS = ("camera", "height_px", "occlusion", "hour")
"""By what accuracy is broken down. Heights are of boxes in pixels, hours in UTC."""
OCCLUSION = "occlusion"
NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each answer was given for each true value.

    Attributes:
        values: The values that occur, in the order of the schema, others, and null at last.
        decisions: `decisions[i][j]` is the number of drawn persons of whom `values[i]` is true and who were
            answered `values[j]`.
        shares: Their estimated shares among all persons with an answer.
    """

    values: tuple[AttributeValue, ...]
    decisions: tuple[tuple[int, ...], ...]
    shares: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class GoldAccuracy:
    """One annotator's accuracy on one attribute among all persons.

    Attributes:
        answered: Share of persons with an answer.
        accuracy: Share of the answers that are right. An integer must be exactly right.
        mean_absolute_error: Of an integer; None for other types.
        confusion: None for an integer, and without answers.
        f1: F1 score by value, in the order of `confusion.values`; empty for an integer.
        macro_f1: Their mean; None for an integer.
        by: Accuracy by each of `BANDS`, and there by value.
        more_decisions: How many more random decisions an interval of the wished width needs, at most as many
            as persons are left.
        more_is_everybody: Whether these are all persons who are left, after whom the accuracy about the
            persons of the table is known exactly.
    """

    answered: Estimate
    accuracy: Estimate
    mean_absolute_error: Estimate | None
    confusion: Confusion | None
    f1: tuple[Estimate, ...]
    macro_f1: Estimate | None
    by: Mapping[str, Mapping[str, Estimate]]
    more_decisions: int
    more_is_everybody: bool


@dataclass(frozen=True, slots=True)
class Said:
    """What a source says about one attribute of the persons in `Gold.rows`.

    Attributes:
        is_given: bool [n], whether it gives a value, which may be null.
        values: [n] the values.
    """

    is_given: Bools
    values: Sequence[AttributeValue]


def said_in(rows: pa.Table, annotator: str, attribute: Attribute) -> Said | None:
    """Return what an annotator says in consolidated rows, or None if it was not asked about the attribute."""
    name = f"{annotator}_{attribute.name}"
    if name not in rows.column_names:
        return None
    is_ok = pc.fill_null(pc.is_in(rows[f"{annotator}_status"], pa.array(ANSWERED)), False)
    if not attribute.nullable:  # null means that the shard was annotated before the attribute was added
        is_ok = pc.and_(is_ok, pc.is_valid(rows[name]))
    return Said(np.asarray(is_ok.to_numpy(), np.bool_), rows[name].to_pylist())


def bands_of(rows: pa.Table) -> dict[str, list[str]]:
    """Return what persons are broken down by: a name by row, for each of `BANDS`."""
    tops, bottoms = (pc.list_element(rows["bbox"], side).to_numpy() for side in (1, 3))
    heights = (bottoms - tops) * rows["height"].to_numpy()
    edges = np.array(HEIGHT_EDGES_PX)
    names = [f"{low}-{high}" for low, high in itertools.pairwise(edges)] + [f"{edges[-1]}-"]
    hours = pc.hour(rows["captured_at"]).to_pylist()
    occluded = rows[OCCLUSION].to_pylist() if OCCLUSION in rows.column_names else [None] * rows.num_rows
    found: dict[str, list[AttributeValue]] = {
        "camera": rows["camera"].to_pylist(),
        "height_px": [names[bin_ - 1] for bin_ in np.digitize(heights, edges)],
        "occlusion": occluded,
        "hour": [None if hour is None else f"{hour:02}" for hour in hours],
    }
    return {band: [_name(value) for value in values] for band, values in found.items()}


def gold_accuracy(
    attribute: Attribute, gold: Gold, said: Said, bands: Mapping[str, Sequence[str]], width: float
) -> GoldAccuracy:
    """Estimate how right a source is about an attribute among all persons.

    Args:
        attribute: The attribute.
        gold: The gold labels.
        said: What the source says about the persons in them.
        bands: As `bands_of` returns them.
        width: Wished width of the interval of the accuracy.
    """
    rows, true, weights = gold.about(attribute)
    given = said.is_given[rows]
    answered = share_of(given, weights, gold.clusters[rows])
    kept = rows[given]
    truth = [value for value, is_kept in zip(true, given.tolist(), strict=True) if is_kept]
    answers = [said.values[row] for row in kept.tolist()]
    weights, clusters = weights[given], gold.clusters[kept]
    right = np.array([t == s for t, s in zip(truth, answers, strict=True)], np.bool_)
    accuracy = share_of(right, weights, clusters)
    size = effective_size(right, weights, clusters) if len(right) else 0.0
    needed, left = more_needed(accuracy.value, len(right), size, width), gold.undecided(attribute.name)
    by = {
        band: _by_band(right, weights, clusters, [names[row] for row in kept.tolist()])
        for band, names in bands.items()
    }
    is_number = attribute.type == "integer"
    confusion = _confusion(attribute, truth, answers, weights) if len(right) and not is_number else None
    f1, macro = _f1(confusion, truth, answers, weights, clusters) if confusion else ((), None)
    return GoldAccuracy(
        answered=answered,
        accuracy=accuracy,
        mean_absolute_error=_error(truth, answers, weights, clusters) if is_number else None,
        confusion=confusion,
        f1=f1,
        macro_f1=macro,
        by=by,
        more_decisions=min(needed, left),
        more_is_everybody=needed >= left,
    )


def _by_band(right: Bools, weights: Floats, clusters: Ints, names: Sequence[str]) -> dict[str, Estimate]:
    listed = np.array(names, np.str_)
    found = {}
    for name in sorted(set(names), key=lambda name: (name == NOT_KNOWN, len(name.partition("-")[0]), name)):
        here = listed == name
        found[name] = share_of(right[here], weights[here], clusters[here])
    return found


def _confusion(
    attribute: Attribute,
    truth: Sequence[AttributeValue],
    answers: Sequence[AttributeValue],
    weights: Floats,
) -> Confusion:
    present = {*truth, *answers}
    values: list[AttributeValue] = [
        value for value in attribute.values if value in present and value is not None
    ]
    values += sorted(present - {*values, None}, key=str)
    values += [None] * (None in present)
    place = {value: index for index, value in enumerate(values)}
    at = np.array([place[t] * len(values) + place[s] for t, s in zip(truth, answers, strict=True)], np.int64)
    shape = (len(values), len(values))
    counts = np.bincount(at, minlength=len(values) ** 2).reshape(shape)
    shares = np.bincount(at, weights, minlength=len(values) ** 2).reshape(shape) / weights.sum()
    return Confusion(tuple(values), tuple(map(tuple, counts.tolist())), tuple(map(tuple, shares.tolist())))


def _f1(
    confusion: Confusion,
    truth: Sequence[AttributeValue],
    answers: Sequence[AttributeValue],
    weights: Floats,
    clusters: Ints,
) -> tuple[tuple[Estimate, ...], Estimate]:
    # An F1 score is the share of right ones among all mentions of the value, by the truth or by an answer.
    is_true = np.array([[t == value for t in truth] for value in confusion.values], np.bool_)
    is_said = np.array([[s == value for s in answers] for value in confusion.values], np.bool_)
    mentions, hits = is_true.astype(float) + is_said, is_true & is_said
    found = []
    for of_value, weigh in zip(hits, mentions, strict=True):
        some = weigh > 0
        found.append(share_of(of_value[some], (weights * weigh)[some], clusters[some]))
    return tuple(found), mean_share(hits, mentions, weights, clusters)


def _error(
    truth: Sequence[AttributeValue], answers: Sequence[AttributeValue], weights: Floats, clusters: Ints
) -> Estimate:
    known = [t is not None and s is not None for t, s in zip(truth, answers, strict=True)]
    pairs = [(t, s) for t, s, both in zip(truth, answers, known, strict=True) if both]
    errors = np.array([abs(float(t or 0) - float(s or 0)) for t, s in pairs], np.float64)
    chosen = np.array(known, np.bool_)
    found = mean_of(errors, weights[chosen], clusters[chosen])
    if found.low is None:
        return found
    return Estimate(found.value, max(0.0, found.low), found.high, found.n)


def _name(value: AttributeValue) -> str:
    if value is None:
        return NOT_KNOWN
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
