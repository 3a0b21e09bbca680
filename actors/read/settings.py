"""The `input` section of the configuration: what to read, and the limits on it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from actors.read.key_pattern import compile_pattern
from actors.read.local_time import time_zone
from actors.settings_section import Section
from actors.storage.uris import PlainUri


class InputSettings(Section):
    """Where frames come from, how to read them, and what is too large to be one."""

    uri: PlainUri | None = Field(
        None,
        description="A shard, a folder or bucket prefix of shards or images, or a glob "
        "(s3://bucket/day-*.tar).",
    )
    format: Literal["auto", "webdataset", "parquet", "images", "zip"] = Field(
        "auto",
        description="Kind of input to read; files of other kinds are ignored. `auto` recognises each file by "
        "its extension.",
    )
    max_image_bytes: int = Field(
        64 * 2**20,
        ge=1,
        description="Maximum size of an encoded image, in bytes. A larger image is not read, and its frame "
        "becomes an error.",
    )
    max_image_pixels: int = Field(
        50_000_000,
        ge=1,
        description="Maximum number of pixels in an image. A larger image is not decoded, and its frame "
        "becomes an error.",
    )
    max_shard_bytes: int = Field(
        256 * 2**20,
        ge=4096,
        description="Maximum size of a shard, in bytes. A larger tar, Parquet file or zip is processed as "
        "several parts.",
    )
    frames_per_shard: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Average number of loose images from one folder that form a shard. Shards have from "
        "three quarters to one and a half times as many.",
    )
    sidecars: bool = Field(
        True,
        description="Whether to read a frame's camera and time from the .json file beside it (tar, zip, "
        "images).",
    )
    key_pattern: str | None = Field(
        None,
        description="Pattern of the end of a frame's path, from which its camera and time are read where "
        'neither sidecar nor column gives them, such as "{camera}/{captured_at:%Y%m%d_%H%M%S}*.jpg", or '
        "a regular expression with groups of these names. --dry-run shows what it reads.",
    )
    timezone: str = Field(
        "UTC",
        description="Time zone (IANA name, such as Europe/Berlin) of times that name none. Of an hour that "
        "occurs twice, because clocks are set back, the first is taken.",
    )
    image_column: str = Field("image", min_length=1, description="Parquet column of the encoded images.")
    key_column: str | None = Field(
        None,
        description="Parquet column of the frame keys. By default, the key is the row number in the file.",
    )
    camera_column: str | None = Field(
        None,
        description="Parquet column or sidecar key of the camera. By default, `camera` if present.",
    )
    captured_at_column: str | None = Field(
        None,
        description="Parquet column or sidecar key of the frame's time. By default, `captured_at` if "
        "present.",
    )

    @field_validator("key_pattern")
    @classmethod
    def _is_pattern(cls, text: str | None) -> str | None:
        if text is not None:
            compile_pattern(text)
        return text

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        time_zone(name)
        return name

    def fingerprint_content(self) -> dict[str, object]:
        """Return everything that the frames of a shard depend on.

        `key_pattern` and `timezone` are left out at their defaults: outputs of versions that did not have
        them stay valid.
        """
        fields = type(self).model_fields
        optional = ("key_pattern", "timezone")
        unused = {name for name in optional if getattr(self, name) == fields[name].default}
        return self.model_dump(mode="json", exclude={"uri", "format", "max_shard_bytes", *unused})
