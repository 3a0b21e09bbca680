"""The accuracy of a detector on labelled photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from actors.detect.coco_evaluation import evaluate_boxes
from actors.detect.person_detector import PersonDetector
from actors.detect.settings import DetectorSettings, ResolvedDetector

_LEAST_SCORE = 0.01
"""Boxes from this score on count, because average precision is about all scores."""


def average_precision(
    folder: Path, settings: DetectorSettings, resolved: ResolvedDetector
) -> tuple[float, float]:
    """Return the AP50 and AP50-95 of persons.

    Args:
        folder: `images/` with JPEGs, and `labels/` with a text file for each, whose lines are a class and
            the centre, width and height of a box as shares of the image (YOLO's format).
        settings: The detector's settings.
        resolved: The network.
    """
    detector = PersonDetector(settings.model_copy(update={"confidence": _LEAST_SCORE}), resolved)
    truth: list[np.ndarray] = []
    found: list[np.ndarray] = []
    for path in sorted((folder / "images").glob("*.jpg")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            continue
        height, width = image.shape[:2]
        text = (folder / "labels" / f"{path.stem}.txt").read_text()
        rows = np.array([line.split() for line in text.splitlines()], np.float64).reshape(-1, 5)
        centre, half = rows[:, 1:3], rows[:, 3:5] / 2
        truth.append(np.hstack([centre - half, centre + half]) * (width, height, width, height))
        found.append(detector.detect([image])[0].astype(np.float64))
    evaluation = evaluate_boxes(
        np.arange(len(truth)),
        (_frames_of(truth), np.concatenate(truth)),
        (_frames_of(found), np.concatenate(found)[:, :4]),
        np.concatenate(found)[:, 4],
    )
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]
    return float(precision[0].mean()), float(precision.mean())


def _frames_of(boxes: list[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(boxes)), [len(each) for each in boxes])
