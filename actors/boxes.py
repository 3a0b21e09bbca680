"""How much boxes overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SAME_PERSON_IOU = 0.5
"""Intersection over union from which two boxes of one frame show the same person."""


def box_ious(some: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Return the intersection over union of each box with each other box.

    Args:
        some: Boxes (n, 4): x1, y1, x2, y2.
        others: Boxes (m, 4) in the same units.

    Returns:
        Shares of shape (n, m).
    """
    left = np.asarray(some, dtype=np.float64).reshape(-1, 1, 4)
    right = np.asarray(others, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(left[..., 2:], right[..., 2:]) - np.maximum(left[..., :2], right[..., :2])
    common = np.prod(np.clip(sides, 0, None), axis=-1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (left, right)]
    union = areas[0] + areas[1] - common
    ious: NDArray[np.float64] = common / np.where(union > 0, union, 1)
    return ious


def same_persons(some: ArrayLike, others: ArrayLike) -> NDArray[np.intp]:
    """Match boxes of one frame one to one, so that the sum of their intersections over unions is largest.

    Pairs below `SAME_PERSON_IOU` don't match.

    Args:
        some: Boxes (n, 4): x1, y1, x2, y2.
        others: Boxes (m, 4) in the same units.

    Returns:
        Pairs of indices into `some` and `others`, of shape (k, 2).
    """
    from scipy.optimize import linear_sum_assignment

    ious = box_ious(some, others)
    # A pair that is too far apart must not take the place of two that are near.
    near = np.where(ious >= SAME_PERSON_IOU, ious, 0)
    pairs: NDArray[np.intp] = np.stack(linear_sum_assignment(near, maximize=True), axis=1)
    return pairs[near[pairs[:, 0], pairs[:, 1]] > 0]
