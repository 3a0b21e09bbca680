"""What is written, and where: the `output` section of the configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from actors.fingerprint import fingerprint_of
from actors.settings_section import Section

KeepCrops = Literal["until_annotated", "always", "never"]


def _off_is_none(value: Any) -> Any:
    # YAML reads a bare off as false.
    return "none" if value is False or value == "off" else value


class OutputSettings(Section):
    """What is written, and where."""

    uri: str | None = Field(None, description="Where results go: a folder, s3://..., any fsspec URL")
    person_json: Annotated[Literal["files", "tar", "none"], BeforeValidator(_off_is_none)] = Field(
        "files", description="Per-person JSON: one object each, one tar a shard, or none"
    )
    keep_crops: KeepCrops = Field(
        "until_annotated",
        description="How long crops of kept persons stay in persons/: until every enabled annotator has "
        "answered (as long as none is enabled, too), always, or never. Whoever needs one that is gone cuts "
        "it again from the input",
    )
    previews: int = Field(
        12, ge=0, description="About how many frames of a run are drawn with boxes and labels"
    )
    preview_max_side_px: int = Field(1280, ge=64, description="Longest side of a preview, in pixels")
    consolidate: bool = Field(True, description="Bring consolidated/ up to date at the end of a run")

    @property
    def person_json_fingerprint(self) -> str:
        """Changes where the documents of every shard are to be written anew."""
        return fingerprint_of([self.person_json])
