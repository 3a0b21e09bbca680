"""The `storage` section of the settings: how to reach object storage."""

from __future__ import annotations

import os

from pydantic import Field

from actors.settings_section import Section


class StorageSettings(Section):
    """How to reach object storage. Keys come from the environment only."""

    endpoint_url: str | None = Field(
        None, description="S3 endpoint. By default, AWS_ENDPOINT_URL_S3 if it is set, else AWS itself."
    )
    anon: bool = Field(False, description="Whether to read and write without credentials (public buckets).")
    retries: int = Field(
        5, ge=0, le=20, description="How many times a failed request to the object store is sent again."
    )
    timeout_s: float = Field(
        60, gt=0, description="Maximum number of seconds to wait for an answer from the object store."
    )
    allow_unsafe: bool = Field(
        False,
        description="Whether to use an output that can't tell which of two competing writers came first: a "
        "bucket without conditional writes, or a disk without hard links. Two runs on such an output at the "
        "same time can overwrite each other's results, so never start a second one.",
    )

    @property
    def s3_endpoint(self) -> str | None:
        """The S3 endpoint that was configured, or None for the client's own default."""
        return self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3")
