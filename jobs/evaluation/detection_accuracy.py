"""Compare detected with true boxes: average precision, matches and recall, as COCO measures them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.detect.coco_evaluation import evaluate_boxes
from jobs.evaluation.proportion import Proportion

MATCH_IOU = 0.5
HEIGHT_EDGES_PX = (0, 32, 64, 96, 128, 192, 256, 384)
"""Lower edges of the bins of box height. The last bin has no upper edge."""


@dataclass(frozen=True, slots=True)
class DetectionAccuracy:
    """How well a set of detections finds the persons in the ground truth.

    Attributes:
        detections: Number of detections.
        ap50: Average precision at IoU 0.5, interpolated at 101 recalls; None if the ground truth has no
            person.
        ap50_95: Mean of the average precisions at IoU 0.5, 0.55 ... 0.95; None if the ground truth has no
            person.
        precision: Share of the detections that match a person at IoU 0.5, whatever their score.
        recall: Share of the persons that match a detection at IoU 0.5.
        precision_at_recall: Maps an IoU ("0.50", "0.75") to the interpolated precision at recalls 0, 0.01
            ... 1.
    """

    detections: int
    ap50: float | None
    ap50_95: float | None
    precision: Proportion
    recall: Proportion
    precision_at_recall: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class HeightRecall:
    """Recall of the persons with a true box from `from_px` to under `to_px` high (None: no limit)."""

    from_px: int
    to_px: int | None
    recall: Proportion


def detection_accuracy(
    frames: NDArray[np.int64],
    truth: tuple[NDArray[np.int64], NDArray[np.float64]],
    found: tuple[NDArray[np.int64], NDArray[np.float64]],
    scores: NDArray[np.float64],
) -> tuple[DetectionAccuracy, NDArray[np.int64]]:
    """Compare detections with the ground truth, using pycocotools and counting all detections of a frame.

    Detections are matched in descending order of score, each to the unmatched person that it overlaps most.
    IoU does not change when width and height are scaled, so boxes in shares of the frame give the same
    results as boxes in pixels.

    Args:
        frames: [f] compared frames, including those without persons.
        truth: Frame [n] and box [n, 4] (x1, y1, x2, y2) of each true person.
        found: Frame [m] and box [m, 4] of each detection.
        scores: [m] scores of the detections.

    Returns:
        The measures, and for each true person the row of the detection that matches it at IoU 0.5, or -1.
    """
    evaluation = evaluate_boxes(frames, truth, found, scores)
    matched = _matches(evaluation, len(truth[0]))
    hits = int((matched >= 0).sum())
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]  # [IoU threshold, recall]
    curves = {f"{iou:.2f}": precision[i].tolist() for i, iou in _thresholds(evaluation) if iou in (0.5, 0.75)}
    known = len(truth[0]) > 0
    return (
        DetectionAccuracy(
            detections=len(scores),
            ap50=float(precision[0].mean()) if known else None,
            ap50_95=float(precision.mean()) if known else None,
            precision=Proportion.of(hits, len(scores)),
            recall=Proportion.of(hits, len(matched)),
            precision_at_recall=curves if known else {},
        ),
        matched,
    )


def recall_by_height(heights_px: NDArray[np.float64], matched: NDArray[np.bool_]) -> tuple[HeightRecall, ...]:
    """Return the recall for each range of box height that contains a true person.

    Args:
        heights_px: [n] height of each true box in pixels of its frame.
        matched: [n] whether the person was found.
    """
    bins = np.digitize(heights_px, HEIGHT_EDGES_PX) - 1
    limits = [*HEIGHT_EDGES_PX[1:], None]
    return tuple(
        HeightRecall(
            HEIGHT_EDGES_PX[i],
            limits[i],
            Proportion.of(int(matched[bins == i].sum()), int((bins == i).sum())),
        )
        for i in np.unique(bins)
    )


def _thresholds(evaluation: Any) -> list[tuple[int, float]]:
    return [(i, round(float(iou), 2)) for i, iou in enumerate(evaluation.params.iouThrs)]


def _matches(evaluation: Any, persons: int) -> NDArray[np.int64]:
    threshold = next(i for i, iou in _thresholds(evaluation) if iou == MATCH_IOU)
    matched = np.full(persons, -1, np.int64)
    for frame in evaluation.evalImgs:
        if frame is not None and frame["gtIds"]:
            rows = np.array(frame["gtIds"], np.int64) - 1
            matched[rows] = frame["gtMatches"][threshold].astype(np.int64) - 1
    return matched
