"""Tokens and costs of requests, estimated before a request is sent and known after its answer."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from actors.attributes import AttributeSchema
from actors.errors import FrameError
from actors.gemini.api.packing import Crop, PackedRequest
from actors.gemini.api.request import ECHO_INSTRUCTION, response_json_schema
from actors.gemini.settings import GeminiPrices, GeminiSettings, ResolvedGemini
from actors.read.image_headers import read_size

TILE_TOKENS = 258
"""Tokens of a small image or of one tile of a larger image (ai.google.dev/gemini-api/docs/tokens)."""

_SMALL_PX = 384
_RESOLUTION_TOKENS = {"low": 64, "medium": 256}
"""Tokens of an image of any size, by media resolution (google-genai's `MediaResolution`)."""

_CHARS_PER_TOKEN = 4
_ID_TOKENS = 8
"""Tokens of an id of four hex digits with its label; each digit may be a token of its own."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one request as the server counted them.

    Attributes:
        input: Tokens of the prompt, schema and images, which count towards the quota per minute.
        output: Tokens of the answer.
        thinking: Tokens of thinking before the answer, which are billed as output.
    """

    input: int = 0
    output: int = 0
    thinking: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.input + other.input, self.output + other.output, self.thinking + other.thinking
        )


def image_tokens(width: int, height: int, media_resolution: str = "auto") -> int:
    """Return the input tokens of one image, as Google documents them for the 2.x models.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        media_resolution: Value of the setting `gemini.media_resolution`.
    """
    if media_resolution in _RESOLUTION_TOKENS:
        return _RESOLUTION_TOKENS[media_resolution]
    if max(width, height) <= _SMALL_PX:
        return TILE_TOKENS
    # For a very thin image, the tile would be smaller than a pixel.
    tile = max(1, math.floor(min(width, height) / 1.5))
    return TILE_TOKENS * math.ceil(width / tile) * math.ceil(height / tile)


def crop_tokens(crop: Crop, media_resolution: str = "auto") -> int:
    """Return the input tokens of a crop with its id. A crop that can't be read counts as one tile."""
    try:
        size = read_size(crop.jpeg)
    except FrameError:
        return TILE_TOKENS + _ID_TOKENS
    return image_tokens(size.width, size.height, media_resolution) + _ID_TOKENS


def estimate_input_tokens(
    request: PackedRequest, settings: GeminiSettings, resolved: ResolvedGemini, schema: AttributeSchema
) -> int:
    """Estimate the input tokens of a request: its prompt, response schema and crops."""
    text = resolved.prompt + ECHO_INSTRUCTION
    text += json.dumps(response_json_schema(schema, settings.reasoning))
    prompt = math.ceil(len(text) / _CHARS_PER_TOKEN)
    return prompt + sum(crop_tokens(crop, settings.media_resolution) for crop in request.crops)


def cost_usd(usage: TokenUsage, prices: GeminiPrices, batch: bool = False) -> float:
    """Return the estimated price of these tokens in US dollars."""
    output = usage.output + usage.thinking
    total = (usage.input * prices.input_usd + output * prices.output_usd) / 1_000_000
    return total * prices.batch_share if batch else total
