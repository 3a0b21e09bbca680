"""Find the persons of a detection that earlier decisions are about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actors.boxes import same_persons
from actors.corrections.decision import Box, Decision


def match_boxes(some: Sequence[Box], others: Sequence[Box]) -> dict[int, int]:
    """Match boxes of one frame as `same_persons` does.

    Returns:
        The position in `others` by the position in `some`.
    """
    return dict(same_persons(some, others).tolist())


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
