"""The `smolvlm.server` settings: an inference server that the user runs, and the key for it."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from actors.errors import ConfigError
from actors.settings_section import Section

API_KEY_VARIABLE = "SMOLVLM_API_KEY"


class ServerSettings(Section):
    """The server of `smolvlm.engine: server`, which speaks OpenAI's chat completions."""

    base_url: str | None = Field(
        None,
        description="URL of the API, to which the crops are sent, with its version: "
        "http://gpu-1:8000/v1. Workers on all nodes must reach it. If it needs a key, set "
        "SMOLVLM_API_KEY in the environment of every node.",
    )
    max_in_flight: int = Field(
        16, ge=1, le=512, description="Maximum number of concurrent requests of one worker."
    )
    timeout_s: float = Field(
        120, gt=0, le=3600, description="Maximum number of seconds to wait for an answer."
    )
    retries: int = Field(
        3,
        ge=0,
        le=20,
        description="How many times a request is sent again that fails or isn't answered, after increasing "
        "pauses or as long as the server says.",
    )
    outage_s: float = Field(
        300,
        ge=0,
        description="Seconds for which a worker waits for a server that answers nothing any more. After "
        "that, the shard is tried again later, and then left for the next run.",
    )
    answer_tokens: int = Field(
        512, ge=16, description="Maximum number of output tokens per person. A longer answer is cut."
    )

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must be an http or https URL")
        try:
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"base_url: {error}") from None
        if parts.username or parts.password or parts.query or parts.fragment:
            # The URL appears in logs and in printed settings.
            raise ValueError(
                f"base_url must not contain credentials or a query; set the key in {API_KEY_VARIABLE}"
            )
        return url.rstrip("/")


def read_server_key() -> SecretStr | None:
    """Return the key in the environment variable SMOLVLM_API_KEY, or None if it isn't set.

    Raises:
        ConfigError: The value can't be a key.
    """
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not key:
        return None
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"{API_KEY_VARIABLE}: contains characters that can't be part of a key")
    return SecretStr(key)
