"""Compare predictions with the ground truth: which persons were found, and which answers are right."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.evaluation.attribute_accuracy import AttributeAccuracy, attribute_accuracy
from jobs.evaluation.detection_accuracy import (
    MATCH_IOU,
    DetectionAccuracy,
    HeightRecall,
    detection_accuracy,
    recall_by_height,
)
from jobs.evaluation.predictions import Predictions
from jobs.evaluation.truth import Truth

NOT_ASKED = "not asked"
"""Outcome of a person without a row in the annotator's table."""


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """Frame counts, where truth = compared + failed + not_in_output.

    `taken_as_empty` counts the output's other frames. They are compared as frames without persons if the
    truth is complete.
    """

    truth: int
    compared: int
    failed: int
    not_in_output: int
    taken_as_empty: int


@dataclass(frozen=True, slots=True)
class PersonCounts:
    """Person counts of the compared frames.

    The counts add up: truth = matched + dropped + missed, and kept = matched + unmatched.

    Attributes:
        truth: Persons in the ground truth.
        matched: Persons that match a kept detection. Attributes are measured on these.
        dropped: Persons that match only a detection that the ROI dropped.
        missed: Persons that match no detection.
        kept: Kept detections.
        unmatched: Kept detections that match no person in the ground truth.
    """

    truth: int
    matched: int
    dropped: int
    missed: int
    kept: int
    unmatched: int


@dataclass(frozen=True, slots=True)
class AnnotatorAccuracy:
    """One annotator's results on the matched persons.

    Attributes:
        outcomes: Number of persons by outcome.
        attributes: Measures by attribute.
    """

    outcomes: dict[str, int]
    attributes: dict[str, AttributeAccuracy]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The content of `evaluation.json`.

    Attributes:
        output: URI of the output.
        truth: URI of the ground-truth table.
        match_iou: Lowest IoU at which a detection matches a person.
        frames: Number of frames that were compared or left out.
        persons: Number of persons that were found or missed.
        detection: Accuracy of "all" detections written, and of those that the ROI "kept".
        recall_by_height: Recall of "all" and "kept" detections by the height of the true box in pixels.
        annotators: Results by annotator.
        left_out: Attributes "without_column" or "without_values" in the ground-truth table, and its
            "unused_columns".
    """

    output: str
    truth: str
    match_iou: float
    frames: FrameCounts
    persons: PersonCounts
    detection: dict[str, DetectionAccuracy]
    recall_by_height: dict[str, tuple[HeightRecall, ...]]
    annotators: dict[str, AnnotatorAccuracy]
    left_out: dict[str, tuple[str, ...]]

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as a JSON object."""
        return asdict(self)


def compare(output_uri: str, truth: Truth, predictions: Predictions) -> Evaluation:
    """Measure predictions against the ground truth. Both must have at least one frame in common."""
    frames = np.array(sorted(predictions.heights_px), np.int64)
    compared = int((frames < len(truth.frames)).sum())
    here = np.isin(truth.frame_of, frames)
    persons = (truth.frame_of[here], truth.boxes[here])
    heights_px = np.array([predictions.heights_px[frame] for frame in persons[0].tolist()], np.float64)
    heights_px *= persons[1][:, 3] - persons[1][:, 1]
    detection, recall, matched = {}, {}, {}
    for name, chosen in (("all", np.ones_like(predictions.kept)), ("kept", predictions.kept)):
        found = (predictions.frame_of[chosen], predictions.boxes[chosen])
        detection[name], rows = detection_accuracy(frames, persons, found, predictions.scores[chosen])
        matched[name] = np.append(np.flatnonzero(chosen), -1)[rows]
        recall[name] = recall_by_height(heights_px, rows >= 0)
    rows_of_truth = np.flatnonzero(here)[matched["kept"] >= 0]
    rows_found = matched["kept"][matched["kept"] >= 0]
    kept = detection["kept"]
    only_dropped = int(((matched["all"] >= 0) & (matched["kept"] < 0)).sum())
    return Evaluation(
        output=output_uri,
        truth=truth.uri,
        match_iou=MATCH_IOU,
        frames=FrameCounts(
            truth=len(truth.frames),
            compared=compared,
            failed=len(predictions.failed),
            not_in_output=len(truth.frames) - compared - len(predictions.failed),
            taken_as_empty=len(frames) - compared,
        ),
        persons=PersonCounts(
            truth=len(persons[0]),
            matched=len(rows_found),
            dropped=only_dropped,
            missed=len(persons[0]) - len(rows_found) - only_dropped,
            kept=kept.detections,
            unmatched=kept.detections - len(rows_found),
        ),
        detection=detection,
        recall_by_height=recall,
        annotators={
            name: _annotator(truth, rows_of_truth, answers.take(rows_found))
            for name, answers in predictions.answers.items()
        },
        left_out={
            "without_column": truth.absent,
            "without_values": truth.empty,
            "unused_columns": truth.unused,
        },
    )


def _annotator(truth: Truth, rows: NDArray[np.int64], answers: pa.Table) -> AnnotatorAccuracy:
    outcomes = Counter(status or NOT_ASKED for status in answers["status"].to_pylist())
    return AnnotatorAccuracy(
        outcomes=dict(sorted(outcomes.items())),
        attributes={
            a.name: attribute_accuracy(a, truth.values[a.name].take(rows), answers) for a in truth.attributes
        },
    )
