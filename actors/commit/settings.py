"""The `output` section of the settings: what is written, and where."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from actors.fingerprint import fingerprint_of
from actors.settings_section import Section
from actors.storage.uris import PlainUri

KeepCrops = Literal["until_annotated", "always", "never"]


def _off_is_none(value: Any) -> Any:
    # YAML reads a bare off as false.
    return "none" if value is False or value == "off" else value


class OutputSettings(Section):
    """What is written, and where."""

    uri: PlainUri | None = Field(
        None, description="Where results are written: a folder, s3://... or any fsspec URL."
    )
    person_json: Annotated[Literal["auto", "files", "tar", "none"], BeforeValidator(_off_is_none)] = Field(
        "auto",
        description="Whether the per-person JSON is written as one object per person (`files`), as one tar "
        "per shard (`tar`), or not at all (`none`). `auto` writes files for inputs of up to about 2,000 "
        "frames and tars for larger ones, and keeps what an output already has.",
    )
    keep_crops: KeepCrops = Field(
        "until_annotated",
        description="How long the crops of kept persons stay in persons/: until every enabled annotator has "
        "answered (and as long as no annotator is enabled), always, or never. A crop that is needed later is "
        "cut from the input again.",
    )
    previews: int = Field(
        12, ge=0, description="Approximate number of frames per run that are drawn with boxes and labels."
    )
    preview_max_side_px: int = Field(1280, ge=64, description="Longest side of a preview, in pixels.")
    consolidate: bool = Field(
        True,
        description="Whether to bring consolidated/ and consolidated_frames/ up to date at the end of a run.",
    )
    keep_versions_days: float = Field(
        0,
        ge=0,
        le=3650,
        description="Days for which a replaced version of these two tables stays readable. With 0 its files "
        "are deleted at once, so that a plain glob reads every row once; with more, read them as Delta Lake "
        "tables.",
    )
    retain_days: float | None = Field(
        None,
        gt=0,
        description="Age in days, by the time of the frame, from which shopframe clean erases persons as "
        "shopframe erase --before does. Detection leaves them out, and they are not sent to Gemini. Frames "
        "without a time are kept. null keeps everybody.",
    )
    answer_index: bool = Field(
        True,
        description="Whether every answer is also filed under answers/ by its crop, so that an annotator is "
        "not asked again about a crop that is found under another name or in another shard. It takes about "
        "as much space as the annotations.",
    )

    def retained_since(self) -> datetime | None:
        """Return the time before which persons aren't kept any more, as of now."""
        return None if self.retain_days is None else datetime.now(UTC) - timedelta(days=self.retain_days)

    @property
    def person_json_fingerprint(self) -> str:
        """A fingerprint that changes when the documents of all shards must be written again.

        It is meant for the value that `auto` was replaced by.
        """
        return fingerprint_of([self.person_json])
