"""Compare the persons that two networks find in the same frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from actors.boxes import same_persons

FEWEST_PERSONS = 20
"""A comparison over fewer persons says nothing."""

LEAST_FOUND = 0.93
MOST_ADDED = 0.07
MOST_SCORE_DIFFERENCE = 0.04
LEAST_AP50 = 0.93
LEAST_AP50_95 = 0.88
"""Bounds of agreement. Over groups of 28 to 50 photographs, YOLOv8n in int8 finds 0.95 to 1.0 of the persons,
adds 0 to 0.035, and has an AP50 of 0.95 to 0.998 and an AP50-95 of 0.94 to 0.98. With its whole head in int8,
which costs a tenth of the AP50-95 against the labels, it adds 0.11 to 0.18 and has an AP50-95 of 0.75 to
0.78."""


class Agreement(BaseModel):
    """How the persons of a network agree with those of a reference, over some frames.

    A person whose score is just above the minimum in one network and just below it in the other is found by
    both: the other network's boxes count from half of the minimum. Such a pair shows in the scores.

    Attributes:
        frames: Number of frames.
        persons: Number of persons that the reference finds.
        found: Share of these persons that the network finds, too.
        added: Persons that only the network finds, as a share of the reference's persons.
        score_difference: Mean absolute difference of the scores of persons that both find.
        ap50: Average precision at an overlap of 0.5, with the boxes of the reference as the truth.
        ap50_95: The same, as the mean over the overlaps 0.5, 0.55 to 0.95.
    """

    model_config = ConfigDict(frozen=True)

    frames: int
    persons: int
    found: float
    added: float
    score_difference: float
    ap50: float
    ap50_95: float

    def objections(self) -> list[str]:
        """Return in which respects the network doesn't agree with the reference; none if it does."""
        if self.persons < FEWEST_PERSONS:
            return [
                f"float32 finds {self.persons} persons in {self.frames} frames (at least {FEWEST_PERSONS})"
            ]
        bounds = (
            (
                self.found >= LEAST_FOUND,
                f"finds {self.found:.1%} of the persons (at least {LEAST_FOUND:.0%})",
            ),
            (self.added <= MOST_ADDED, f"adds {self.added:.1%} persons (at most {MOST_ADDED:.0%})"),
            (
                self.score_difference <= MOST_SCORE_DIFFERENCE,
                f"its scores differ by {self.score_difference:.3f} (at most {MOST_SCORE_DIFFERENCE})",
            ),
            (self.ap50 >= LEAST_AP50, f"has an AP50 of {self.ap50:.3f} (at least {LEAST_AP50})"),
            (
                self.ap50_95 >= LEAST_AP50_95,
                f"has an AP50-95 of {self.ap50_95:.3f} (at least {LEAST_AP50_95})",
            ),
        )
        return [text for is_met, text in bounds if not is_met]


def compare_boxes(
    reference: Sequence[np.ndarray], other: Sequence[np.ndarray], confidence: float
) -> Agreement:
    """Compare the persons of two networks.

    Args:
        reference: For each frame the reference's boxes with scores from half of `confidence`, in descending
            order of score, (n, 5) float32: x1, y1, x2, y2 and score.
        other: The boxes of the network that is compared with it.
        confidence: Minimum score of a person.
    """
    persons = found = added = 0
    differences: list[NDArray[np.float32]] = []
    for theirs, mine in zip(reference, other, strict=True):
        pairs = same_persons(theirs[:, :4], mine[:, :4])
        is_person, is_mine = theirs[:, 4] > confidence, mine[:, 4] > confidence
        persons += int(is_person.sum())
        found += int(is_person[pairs[:, 0]].sum())
        added += int(is_mine.sum() - is_mine[pairs[:, 1]].sum())
        both = pairs[is_person[pairs[:, 0]]]
        differences.append(np.abs(theirs[both[:, 0], 4] - mine[both[:, 1], 4]))
    scores = np.concatenate(differences) if differences else np.zeros(0, np.float32)
    ap50, ap50_95 = _average_precision(reference, other, confidence) if persons else (0.0, 0.0)
    return Agreement(
        frames=len(reference),
        persons=persons,
        found=found / persons if persons else 0.0,
        added=added / persons if persons else 0.0,
        score_difference=float(scores.mean()) if scores.size else 0.0,
        ap50=ap50,
        ap50_95=ap50_95,
    )


def _average_precision(
    reference: Sequence[np.ndarray], other: Sequence[np.ndarray], confidence: float
) -> tuple[float, float]:
    # pycocotools is loaded only where something is compared.
    from actors.detect.coco_evaluation import evaluate_boxes

    truth = [boxes[boxes[:, 4] > confidence] for boxes in reference]
    (frame_of_truth, expected), (frame_of_found, found) = _together(truth), _together(other)
    evaluation = evaluate_boxes(
        np.arange(len(truth)), (frame_of_truth, expected[:, :4]), (frame_of_found, found[:, :4]), found[:, 4]
    )
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]
    return float(precision[0].mean()), float(precision.mean())


def _together(frames: Sequence[np.ndarray]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the frame of each box (n,), and the boxes of all frames (n, 5)."""
    counts = [len(boxes) for boxes in frames]
    return np.repeat(np.arange(len(frames)), counts), np.concatenate([*frames, np.empty((0, 5))])
