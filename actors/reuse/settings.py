"""The settings of the reuse of answers."""

from __future__ import annotations

from pydantic import Field

from actors.fingerprint import fingerprint_of
from actors.settings_section import Section

_VERSION = 1
"""Raise this number when the same settings begin to give other groups."""


class ReuseSettings(Section):
    """Which crops show the same person, and whether these share one answer."""

    reuse: float = Field(
        0,
        ge=0,
        le=3600,
        description="Seconds between two frames of one camera within which a person is recognised again. Of "
        "the crops of that person in a shard, the clearest is asked about, and the others inherit its answer "
        "(outcome `inherited`). 0 asks about every crop. Labels to train on should not be inherited. Frames "
        "need a camera and a time.",
    )
    reuse_overlap: float = Field(
        0.3,
        gt=0,
        le=1,
        description="Smallest overlap (intersection over union) of the boxes of one person in two frames.",
    )
    reuse_similarity: float = Field(
        0.78,
        gt=0,
        le=1,
        description="Smallest similarity of two pictures of one person: the lower one of the correlations of "
        "the whole crops and of their heads, 1 for equal pictures.",
    )

    spread: float = Field(
        10,
        ge=0,
        le=3600,
        description="The same time where Gemini has a budget or a daily quota and every crop is asked about: "
        "one crop of each person is then asked about before a second one of anybody. 0 keeps the order of "
        "the shards. It changes no answer.",
    )

    @property
    def is_on(self) -> bool:
        """Whether answers are inherited."""
        return self.reuse > 0

    def fingerprint(self) -> str | None:
        """Return the hash of everything that groups depend on; None if nobody inherits."""
        if not self.is_on:
            return None
        return fingerprint_of({"version": _VERSION, **self.model_dump(exclude={"spread"})})
