"""Settings of batch mode."""

from __future__ import annotations

from pydantic import Field

from actors.settings_section import Section


class GeminiBatch(Section):
    """Limits of batch mode."""

    max_requests: int = Field(10_000, ge=1, description="Maximum number of requests per batch job.")
    max_file_bytes: int = Field(
        256 << 20,
        ge=1 << 20,
        le=2 << 30,
        description="Maximum size of a file of requests, in bytes. Its crops are held in memory, and Google "
        "accepts up to 2 GB.",
    )
    max_enqueued_tokens: int = Field(
        3_000_000,
        ge=1,
        description="Maximum number of input tokens in unfinished jobs. Google limits it by model and tier.",
    )
    poll_s: float = Field(60, gt=0, description="Seconds between two checks of a running job.")
    deadline_s: float = Field(
        86_400,
        gt=0,
        description="Seconds after which a job is cancelled. Persons that it has not answered are pending "
        "again.",
    )
