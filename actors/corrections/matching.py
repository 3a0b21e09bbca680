"""Find the persons of a detection that earlier decisions are about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from actors.boxes import SAME_PERSON_IOU, box_ious
from actors.corrections.decision import Box, Decision


def match_boxes(some: Sequence[Box], others: Sequence[Box]) -> dict[int, int]:
    """Match boxes of one frame one to one, so that the sum of their intersections over unions is largest.

    Pairs below `SAME_PERSON_IOU` don't match.

    Returns:
        The position in `others` by the position in `some`.
    """
    from scipy.optimize import linear_sum_assignment

    ious = box_ious(some, others)
    # A pair that is too far apart must not take the place of two that are near.
    near = np.where(ious >= SAME_PERSON_IOU, ious, 0)
    rows, columns = linear_sum_assignment(near, maximize=True)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if near[row, column]}


def find_persons(
    decisions: Iterable[Decision], boxes: Mapping[str, Sequence[Box]]
) -> dict[str, tuple[str, int] | None]:
    """Return the person of each decision, whatever detection the decision was about.

    Args:
        decisions: Decisions about one shard.
        boxes: The persons' boxes by frame key.

    Returns:
        By decision id, the frame key and the position of the person's box; None if the decision finds
        nobody.
    """
    groups: defaultdict[tuple[str, str], list[Decision]] = defaultdict(list)
    for decision in decisions:
        groups[decision.frame_key, decision.detection].append(decision)
    found: dict[str, tuple[str, int] | None] = {}
    for (frame_key, _), group in groups.items():
        wanted = list(dict.fromkeys(decision.bbox for decision in group))
        matched = match_boxes(wanted, boxes.get(frame_key, ()))
        for decision in group:
            position = matched.get(wanted.index(decision.bbox))
            found[decision.decision_id] = None if position is None else (frame_key, position)
    return found


def as_box(values: Sequence[Any]) -> Box:
    """Return four numbers as a box."""
    x1, y1, x2, y2 = map(float, values)
    return (x1, y1, x2, y2)
