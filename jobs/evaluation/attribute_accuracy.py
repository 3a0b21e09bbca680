"""Compare answers with known values, one attribute at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import f1_score, mean_absolute_error

from actors.attribute import Attribute, AttributeValue
from actors.records import ANSWERED
from jobs.evaluation.proportion import Proportion
from jobs.evaluation.reliability import Reliability, reliability


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """Measures of a category or boolean attribute, value by value.

    Attributes:
        values: Values that occur in the ground truth or the answers: those of the schema in its order, then
            others, from shards that were annotated with another schema.
        counts: `counts[i][j]` is the number of persons with the true value `values[i]` and the answer
            `values[j]`.
        f1: F1 score of each of `values`, taken as the positive class. An answer of null is a miss.
        macro_f1: Mean of `f1`.
        null_answers: Number of answers of "can't be told". They count as wrong, and `counts` leaves them out.
    """

    values: list[AttributeValue]
    counts: list[list[int]]
    f1: list[float]
    macro_f1: float
    null_answers: int


@dataclass(frozen=True, slots=True)
class NumberAccuracy:
    """Measures of an integer attribute.

    Attributes:
        null_answers: Number of answers of "can't be told". They count as wrong, and are left out of the
            measures below.
        mean_absolute_error: Mean absolute error in the attribute's unit; None if all answers are null.
        mean_error: Mean of answer minus truth; positive if the answers are too high.
        pairs: (truth, answer, number of persons) for each pair that occurs, in order.
    """

    null_answers: int
    mean_absolute_error: float | None
    mean_error: float | None
    pairs: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class AttributeAccuracy:
    """One annotator's accuracy on one attribute, over the matched persons with a known value.

    Attributes:
        type: category, boolean or integer.
        answered: Share of these persons with an answer, that is, with the outcome ok.
        accuracy: Share of the answers that are right. An integer must be exactly right.
        majority: Accuracy of always giving the most frequent true value; None without answers.
        classes: Measures of a category or boolean; None for an integer or without answers.
        numbers: Measures of an integer; None for other types or without answers.
        reliability: Calibration of the confidences; None if no answer has one.
    """

    type: str
    answered: Proportion
    accuracy: Proportion
    majority: float | None
    classes: ClassAccuracy | None
    numbers: NumberAccuracy | None
    reliability: Reliability | None


def attribute_accuracy(attribute: Attribute, truth: pa.ChunkedArray, answers: pa.Table) -> AttributeAccuracy:
    """Compare the answers about an attribute with the ground truth.

    Args:
        attribute: The attribute.
        truth: [n] true values, null if unknown.
        answers: n rows with `status`, the attribute, and `confidence_<name>`.
    """
    known = truth.is_valid()
    answered = pc.and_(known, pc.is_in(answers["status"], pa.array(ANSWERED)))
    if not attribute.nullable:  # null means that the shard was annotated before the attribute was added
        answered = pc.and_(answered, answers[attribute.name].is_valid())
    true = truth.filter(answered).to_pylist()
    said = answers[attribute.name].filter(answered).to_pylist()
    right = np.array([t == s for t, s in zip(true, said, strict=True)], np.bool_)
    confidence = answers[f"confidence_{attribute.name}"].filter(answered)
    sure = np.asarray(confidence.is_valid().to_numpy(), np.bool_)
    is_number = attribute.type == "integer"
    return AttributeAccuracy(
        type=attribute.type,
        answered=Proportion.of(len(true), pc.sum(known).as_py() or 0),
        accuracy=Proportion.of(int(right.sum()), len(true)),
        majority=max(Counter(true).values()) / len(true) if true else None,
        classes=_classes(attribute, true, said) if true and not is_number else None,
        numbers=_numbers(true, said) if true and is_number else None,
        reliability=reliability(confidence.drop_null().to_numpy().astype(np.float64), right[sure]),
    )


def _classes(attribute: Attribute, true: list[AttributeValue], said: list[AttributeValue]) -> ClassAccuracy:
    present = {*true, *said} - {None}
    values = [value for value in attribute.values if value in present]
    values += sorted(present - {*values}, key=str)
    persons = Counter(zip(true, said, strict=True))
    # Positions stand for the values, because scikit-learn takes no null beside booleans.
    position = {value: index for index, value in enumerate(values)} | {None: len(values)}
    coded = ([position[value] for value in answers] for answers in (true, said))
    f1 = f1_score(*coded, labels=range(len(values)), average=None, zero_division=0.0)
    return ClassAccuracy(
        values=values,
        counts=[[persons[t, s] for s in values] for t in values],
        f1=f1.tolist(),
        macro_f1=float(f1.mean()),
        null_answers=said.count(None),
    )


def _numbers(true: list[int], said: list[int | None]) -> NumberAccuracy:
    pairs = [(t, s) for t, s in zip(true, said, strict=True) if s is not None]
    truths, guesses = np.array(pairs, np.int64).reshape(-1, 2).T
    return NumberAccuracy(
        null_answers=len(said) - len(pairs),
        mean_absolute_error=float(mean_absolute_error(truths, guesses)) if pairs else None,
        mean_error=float((guesses - truths).mean()) if pairs else None,
        pairs=[(*pair, persons) for pair, persons in sorted(Counter(pairs).items())],
    )
