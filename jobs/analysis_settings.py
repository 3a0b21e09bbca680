"""The `analyze` section of the configuration."""

from __future__ import annotations

from pydantic import Field

from actors.settings_section import Section


class AnalyzeSettings(Section):
    """How frames of one camera that follow each other belong together."""

    max_gap_s: float = Field(
        60,
        gt=0,
        description="Longest time between two frames of a camera that counts as observed, in seconds. Longer "
        "gaps are left out of person-seconds, and the analysis says how much that is.",
    )
    max_link_s: float = Field(
        10,
        gt=0,
        description="Longest time between two frames over which a person may be recognised, in seconds.",
    )
