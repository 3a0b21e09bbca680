"""The `consensus` section of the configuration."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from actors.settings_section import Section

HUMAN = "human"
AGREEMENT = "agreement"


class ConsensusSettings(Section):
    """Which value an attribute of a person has in the consolidated table."""

    precedence: tuple[str, ...] = Field(
        (HUMAN, AGREEMENT, "gemini", "smolvlm"),
        description="Sources of an attribute's value, the first one that has a value wins: human (a "
        "correction), agreement (all annotators that answered, at least two, gave the same value), or the "
        "name of an annotator.",
    )

    @model_validator(mode="after")
    def _is_without_repetition(self) -> Self:
        known = {HUMAN, AGREEMENT, "gemini", "smolvlm"}
        unknown = [source for source in self.precedence if source not in known]
        if unknown:
            raise ValueError(f"precedence: {unknown[0]!r} is unknown; use {', '.join(sorted(known))}")
        if len(set(self.precedence)) < len(self.precedence) or not self.precedence:
            raise ValueError("precedence: name at least one source, and each once")
        return self
