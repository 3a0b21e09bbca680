"""What the families of Gemini models accept, and what their tokens cost.

The facts are from Google's documentation (ai.google.dev/gemini-api/docs: gemini-3, thinking, tokens,
media-resolution, pricing) and from reports of users, as they were on 24 November 2026. They were not compared
with the real service. If the service refuses an argument, the stage stops and names the setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ThinkingLevel = Literal["minimal", "low", "medium", "high"]
Resolution = Literal["low", "medium", "high"]

FACTS_OF = "24 November 2026"
"""Date of the documentation that this table follows."""

MOST_OUTPUT_TOKENS = 65_536
"""Largest `maxOutputTokens` that the models of both families accept."""

TILE_TOKENS = 258
"""Tokens of a small image or of one tile of a larger image on 2.5 (ai.google.dev/gemini-api/docs/tokens)."""

_SMALL_PX = 384

_LEVEL_TOKENS: dict[ThinkingLevel, int] = {"minimal": 1024, "low": 4096, "medium": 8192, "high": 24_576}
"""Output tokens that are allowed for thinking at a level. Google states no numbers; these are ours, and
generous, because a limit that is too low cuts the answer."""

_DYNAMIC_TOKENS = 24_576
"""Output tokens that are allowed for thinking if the model chooses the budget."""


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """The rules of one family of models.

    Attributes:
        name: Beginning of the names of its models after `gemini-`.
        thinks_by: Whether the amount of thinking is a level or a budget of tokens. The other one is refused
            or misunderstood, and both together are refused.
        follows_temperature: Whether the models follow `temperature`. The others ignore it.
        image_tokens: Input tokens of an image by media resolution. An image of a resolution that is missing
            counts by tiles.
        default_resolution: The media resolution that is requested if none is configured, or None to request
            none.
    """

    name: str
    thinks_by: Literal["level", "budget"]
    follows_temperature: bool
    image_tokens: Mapping[str, int]
    default_resolution: Resolution | None

    def resolution(self, configured: str) -> Resolution | None:
        """Return the media resolution to request for the setting `gemini.media_resolution`."""
        found: dict[str, Resolution] = {"low": "low", "medium": "medium", "high": "high"}
        return found.get(configured, self.default_resolution)

    def tokens_of(self, width: int, height: int, configured: str) -> int:
        """Return the input tokens of one image of `width` by `height` pixels.

        Args:
            width: Width in pixels.
            height: Height in pixels.
            configured: Value of the setting `gemini.media_resolution`.
        """
        known = self.image_tokens.get(self.resolution(configured) or "")
        if known is not None:
            return known
        if max(width, height) <= _SMALL_PX:
            return TILE_TOKENS
        # For a very thin image, the tile would be smaller than a pixel.
        tile = max(1, math.floor(min(width, height) / 1.5))
        return TILE_TOKENS * math.ceil(width / tile) * math.ceil(height / tile)

    def least_tokens(self, configured: str) -> int:
        """Return the input tokens of the smallest image."""
        return self.tokens_of(1, 1, configured)


GEMINI_2_5 = ModelFamily(
    name="2.5",
    thinks_by="budget",
    follows_temperature=True,
    image_tokens={"low": 64, "medium": 256},
    default_resolution=None,
)
GEMINI_3 = ModelFamily(
    name="3",
    thinks_by="level",
    follows_temperature=False,
    image_tokens={"low": 280, "medium": 560, "high": 1120},
    default_resolution="low",
)
NEWEST = GEMINI_3
_FAMILIES = (GEMINI_2_5, GEMINI_3)


@dataclass(frozen=True, slots=True)
class Price:
    """Price of a model's tokens in US dollars per million.

    Attributes:
        input_usd: Price of input tokens.
        output_usd: Price of output tokens, including thinking.
        is_estimate: Whether the numbers are not from Google's own page, and should be checked there.
    """

    input_usd: float
    output_usd: float
    is_estimate: bool = True


_PRICES = {
    # From Google's page (ai.google.dev/gemini-api/docs/pricing) as read on 24 November 2026.
    "gemini-3.5-flash-lite": Price(0.30, 2.50, is_estimate=False),
    "gemini-2.5-flash": Price(0.30, 2.50, is_estimate=False),
    # Estimates, for prompts up to 200,000 tokens: third parties quoted that page on 7 October 2026 or before.
    # gemini-3.8-flash is announced to cost twice as much from 1 January 2027.
    "gemini-3.8-flash": Price(0.75, 3.75),
    "gemini-3.5-flash": Price(1.50, 9.00),
    "gemini-3.1-flash-lite": Price(0.25, 1.50),
    "gemini-3.1-pro": Price(2.00, 12.00),
    "gemini-3-flash": Price(0.50, 3.00),
    "gemini-2.5-pro": Price(1.25, 10.00),
    "gemini-2.5-flash-lite": Price(0.10, 0.40),
}
_PRICE_OF_UNKNOWN = Price(1.50, 9.00)
"""The price that is assumed for a model that isn't in the table: that of a middle-sized recent model."""


def family_of(model: str) -> ModelFamily:
    """Return the family of a model. A model of no known family has the rules of the newest one."""
    return _known_family(model) or NEWEST


def price_of(model: str) -> Price:
    """Return the price of a model, or an estimate for a model that isn't in the table.

    A preview or dated version ("gemini-3-flash-preview", "gemini-2.5-flash-001") costs as much as the model.
    """
    names = [name for name in _PRICES if model == name or _is_version(model, name)]
    return _PRICES[max(names, key=len)] if names else _PRICE_OF_UNKNOWN


def is_known(model: str) -> bool:
    """Return whether a model's name tells its family."""
    return _known_family(model) is not None


def least_level(model: str) -> ThinkingLevel:
    """Return the lowest thinking level that a model of the newest family accepts.

    Only the models named flash-lite are known to accept `minimal`; some flash and all pro models refuse it.
    """
    return "minimal" if "-flash-lite" in model else "low"


def least_budget(model: str) -> int:
    """Return the smallest thinking budget that a 2.5 model accepts. 2.5 Pro always thinks."""
    return 128 if "-pro" in model else 0


def thinking_allowance(level: ThinkingLevel | None, budget: int | None) -> int:
    """Return the output tokens to allow for thinking, which count towards `maxOutputTokens`."""
    if level is not None:
        return _LEVEL_TOKENS[level]
    return budget if budget is not None and budget >= 0 else _DYNAMIC_TOKENS


def _known_family(model: str) -> ModelFamily | None:
    version = model.removeprefix("gemini-").partition("-")[0]
    if version == model or not version:
        return None
    return next((f for f in _FAMILIES if version == f.name or version.startswith(f"{f.name}.")), None)


def _is_version(model: str, name: str) -> bool:
    rest = model.removeprefix(f"{name}-")
    return rest != model and (rest.startswith(("preview", "exp")) or rest[:1].isdigit())
