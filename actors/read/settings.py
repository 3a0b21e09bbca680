"""What is read, and the limits on it: the `input` section of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actors.settings_section import Section


class InputSettings(Section):
    """Where frames come from, how to read them, and what is too large to be one."""

    uri: str | None = Field(
        None, description="A shard, a folder or prefix of shards or images, or a glob (s3://bucket/day-*.tar)"
    )
    format: Literal["auto", "webdataset", "parquet", "images", "zip"] = Field(
        "auto", description="Read only this kind of input; auto tells each file by its extension"
    )
    max_image_bytes: int = Field(
        64 * 2**20, ge=1, description="A larger encoded image is not read; its frame becomes an error"
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="An image with more pixels is not decoded; its frame becomes an error"
    )
    max_shard_bytes: int = Field(
        256 * 2**20, ge=4096, description="A larger tar, Parquet file or zip is processed as several parts"
    )
    frames_per_shard: int = Field(
        256, ge=1, le=100_000, description="Loose images of one folder that make up one shard"
    )
    sidecars: bool = Field(
        True, description="Read camera and time of a frame from the .json beside it (tar, zip, images)"
    )
    image_column: str = Field("image", min_length=1, description="Parquet column of encoded images")
    key_column: str | None = Field(
        None, description="Parquet column of frame keys; by default the row's number in the file"
    )
    camera_column: str | None = Field(
        None,
        description="Parquet column, or key of the sidecar, of the camera; by default camera, if present",
    )
    captured_at_column: str | None = Field(
        None, description="The same for the time of the frame; by default captured_at, if present"
    )
