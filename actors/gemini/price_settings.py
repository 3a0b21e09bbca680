"""Settings of the prices that the cost of requests is estimated with."""

from __future__ import annotations

from pydantic import Field

from actors.settings_section import Section


class GeminiPrices(Section):
    """Google's prices in US dollars. They are used only to estimate the cost."""

    input_usd: float | None = Field(
        None, ge=0, description="Price of a million input tokens. null takes Shopframe's table of models."
    )
    output_usd: float | None = Field(
        None,
        ge=0,
        description="Price of a million output tokens, including thinking. null takes Shopframe's table of "
        "models.",
    )
    batch_share: float = Field(0.5, ge=0, le=1, description="Share of these prices that batch mode costs.")
