"""One decision of a person about a detected person."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)

from actors.attribute import AttributeValue
from actors.corrections.draw import Draw

DecisionKind = Literal["value", "not_a_person", "box", "missed_person", "withdrawal"]
"""What was decided.

value          the value of one attribute
not_a_person   the detection shows no person
box            the person is in another box than the detector drew
missed_person  the detector has missed a person, who is in `bbox`
withdrawal     an earlier decision, named by `withdraws`, no longer counts
"""

Sampling = Literal["random", "need"]
"""How the person was chosen: at random with a known probability, or for a reason, such as a doubt."""

Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]

MISSED = "missed"
"""The detection of a person whom the detector has missed. Other decisions name the person in the same way."""


class Decision(BaseModel):
    """A decision of one person about one detected person. It is never changed, only followed by others.

    The person is known by shard, frame and box, because a later detection may number persons otherwise.

    Attributes:
        decision_id: Name of the decision.
        decided_at: When it was made.
        reviewer: Who made it.
        tool: What it was made with, such as via or serve.
        shard_id: The shard of the person.
        frame_key: The frame of the person.
        bbox: The person's box as detected, `[x1, y1, x2, y2]`, normalised to 0..1.
        detection: Attempt that wrote the table of persons in which the reviewer saw the person. Different
            boxes of one detection are different persons.
        kind: What was decided.
        attribute: The attribute, for a value.
        value: The decided value, in its JSON type.
        replaces: The value that the person had before.
        new_bbox: The new box, for a box.
        withdraws: The decision that no longer counts, for a withdrawal.
        sampling: How the person was chosen.
        probability: Probability with which the person was drawn, if at random; more than 0, at most 1.
        draw: The draw, if at random. Decisions of earlier versions lack it.
        queue: The queue of the page in which the person was looked at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision_id: str = Field(default_factory=lambda: uuid.uuid4().hex, pattern=r"^[0-9a-f]{32}$")
    decided_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    reviewer: str = Field(min_length=1, max_length=200)
    tool: str = Field(min_length=1, max_length=50)
    shard_id: str = Field(min_length=1)
    frame_key: str = Field(min_length=1)
    bbox: Box
    detection: str = Field(min_length=1)
    kind: DecisionKind
    attribute: str | None = None
    value: AttributeValue = None
    replaces: AttributeValue = None
    new_bbox: Box | None = None
    withdraws: str | None = None
    sampling: Sampling = "need"
    probability: float | None = Field(None, gt=0, le=1)
    draw: Draw | None = None
    queue: str | None = Field(None, max_length=50)

    @field_validator("bbox", "new_bbox")
    @classmethod
    def _is_a_box(cls, box: Box | None) -> Box | None:
        if box is not None:
            x1, y1, x2, y2 = box
            if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
                raise ValueError("a box is x1, y1, x2, y2 with 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1")
        return box

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        for kind, name in (("value", "attribute"), ("box", "new_bbox"), ("withdrawal", "withdraws")):
            if (getattr(self, name) is not None) != (self.kind == kind):
                raise ValueError(f"{name} belongs to decisions of kind {kind}, and only to them")
        if (self.probability is not None) != (self.sampling == "random"):
            raise ValueError("a probability belongs to persons that were chosen at random, and only to them")
        if self.draw is not None and self.sampling != "random":
            raise ValueError("a draw belongs to persons that were chosen at random, and only to them")
        return self


def in_force(decisions: list[Decision]) -> list[Decision]:
    """Return the decisions that count, in the order in which they were made, without withdrawals."""
    withdrawn = {decision.withdraws for decision in decisions if decision.kind == "withdrawal"}
    counting = (d for d in decisions if d.kind != "withdrawal" and d.decision_id not in withdrawn)
    return sorted(counting, key=lambda decision: (decision.decided_at, decision.decision_id))
