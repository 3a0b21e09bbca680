"""The `consensus` section of the configuration."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from actors.settings_section import Section

HUMAN = "human"
AGREEMENT = "agreement"
ABSTAINED = "abstained"
"""Source of a value that is withheld, because the promised accuracy would not be kept with it."""

Promise = Annotated[float, Field(gt=0, lt=1)]


class ConsensusSettings(Section):
    """Which value an attribute of a person has in the consolidated table."""

    precedence: tuple[str, ...] = Field(
        (HUMAN, AGREEMENT, "gemini", "smolvlm"),
        description="Sources of an attribute's value, the first one that has a value wins: human (a "
        "correction), agreement (all annotators that answered, at least two, gave the same value), or the "
        "name of an annotator. Where there is a calibration, it weighs the annotators instead.",
    )

    min_accuracy: Promise | dict[str, Promise] | None = Field(
        None,
        description="Accuracy that values of annotators must have, such as 0.95, for all attributes or by "
        "attribute ({gender: 0.95}). Less certain values become null with the source abstained. It needs "
        "a calibration, which shopframe evaluate --truth corrections --calibrate makes; null withholds "
        "nothing.",
    )

    @property
    def promises(self) -> dict[str, float]:
        """The promised accuracies by attribute; that of "" is for all others."""
        if self.min_accuracy is None or isinstance(self.min_accuracy, dict):
            return dict(self.min_accuracy or {})
        return {"": self.min_accuracy}

    @model_validator(mode="after")
    def _is_without_repetition(self) -> Self:
        known = {HUMAN, AGREEMENT, "gemini", "smolvlm"}
        unknown = [source for source in self.precedence if source not in known]
        if unknown:
            raise ValueError(f"precedence: {unknown[0]!r} is unknown; use {', '.join(sorted(known))}")
        if len(set(self.precedence)) < len(self.precedence) or not self.precedence:
            raise ValueError("precedence: name at least one source, and each once")
        return self
