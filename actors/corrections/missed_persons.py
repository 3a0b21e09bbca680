"""The persons whom the detector has missed and a reviewer has drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.attribute import AttributeValue
from actors.corrections.decision import MISSED, Box, Decision, in_force
from actors.corrections.matching import match_boxes


@dataclass(frozen=True, slots=True)
class MissedPerson:
    """A person in a frame.

    Attributes:
        frame_key: The frame.
        bbox: The box as it was first drawn, by which later decisions name the person.
        box: The box now.
        values: The decided values by attribute.
    """

    frame_key: str
    bbox: Box
    box: Box
    values: Mapping[str, AttributeValue]


def missed_persons(
    decisions: Sequence[Decision], detected: Mapping[str, Sequence[Box]]
) -> list[MissedPerson]:
    """Return the drawn persons of a shard whom the detector still misses, in the order of drawing.

    Args:
        decisions: All decisions about the shard.
        detected: The boxes of the detected persons by frame key.
    """
    about: dict[tuple[str, Box], list[Decision]] = {}
    for decision in in_force(list(decisions)):
        if decision.detection == MISSED:
            about.setdefault((decision.frame_key, decision.bbox), []).append(decision)
    found = []
    for (frame_key, bbox), group in about.items():
        kinds = {decision.kind for decision in group}
        if "missed_person" not in kinds or "not_a_person" in kinds:
            continue
        box = next((d.new_bbox for d in reversed(group) if d.new_bbox is not None), bbox)
        if match_boxes([box], detected.get(frame_key, ())):
            continue
        values = {d.attribute: d.value for d in group if d.attribute is not None}
        found.append(MissedPerson(frame_key, bbox, box, values))
    return found
