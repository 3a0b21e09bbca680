"""Evaluate boxes of persons as COCO does, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

_PERSON = 1


def evaluate_boxes(
    frames: NDArray[np.int64],
    truth: tuple[NDArray[np.int64], NDArray[np.float64]],
    found: tuple[NDArray[np.int64], NDArray[np.float64]],
    scores: NDArray[np.float64],
) -> Any:
    """Evaluate detections, counting all of a frame.

    Args:
        frames: [f] compared frames, including those without persons.
        truth: Frame [n] and box [n, 4] (x1, y1, x2, y2) of each true person.
        found: Frame [m] and box [m, 4] of each detection.
        scores: [m] scores of the detections.

    Returns:
        A `COCOeval` after `evaluate` and `accumulate`. Its `eval["precision"]` has the shape (overlaps,
        recalls, 1, 1, 1), and is -1 where there is no truth.
    """
    evaluation = COCOeval(_dataset(frames, *truth, None), _dataset(frames, *found, scores), "bbox")
    # By default COCOeval counts only 100 detections per image, and also evaluates three ranges of area.
    evaluation.params.maxDets = [max(1, int(np.bincount(found[0], minlength=1).max()))]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _dataset(
    frames: NDArray[np.int64],
    frame_of: NDArray[np.int64],
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64] | None,
) -> Any:
    """Return the boxes as a COCO dataset. Ids are rows + 1, because pycocotools treats id 0 as no match."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    annotations = [
        {
            "id": row + 1,
            "image_id": int(frame_of[row]),
            "category_id": _PERSON,
            "bbox": [*boxes[row, :2].tolist(), *sizes[row].tolist()],
            "area": float(sizes[row].prod()),
            "iscrowd": 0,
            **({} if scores is None else {"score": float(scores[row])}),
        }
        for row in range(len(frame_of))
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": int(frame)} for frame in frames],
        "categories": [{"id": _PERSON, "name": "person"}],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
