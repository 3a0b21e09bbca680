"""Tokens and costs of requests, estimated before a request is sent and known after its answer."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from actors.attributes import AttributeSchema
from actors.errors import FrameError
from actors.gemini.api.packing import Crop, PackedRequest
from actors.gemini.api.request import ECHO_INSTRUCTION, output_limit, response_json_schema
from actors.gemini.quota.spend import RequestCost
from actors.gemini.settings import GeminiSettings, ResolvedGemini
from actors.read.image_headers import read_size

_CHARS_PER_TOKEN = 4
_ANSWER_TOKENS = 120
"""Output tokens of a person before any answer is known: the JSON of the default schema's attributes."""

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


def crop_tokens(crop: Crop, settings: GeminiSettings) -> int:
    """Return the input tokens of a crop with its id. A crop that can't be read counts as a small one."""
    try:
        size = read_size(crop.jpeg)
    except FrameError:
        return settings.family.least_tokens(settings.media_resolution) + _ID_TOKENS
    return settings.family.tokens_of(size.width, size.height, settings.media_resolution) + _ID_TOKENS


def estimate_input_tokens(
    request: PackedRequest, settings: GeminiSettings, resolved: ResolvedGemini, schema: AttributeSchema
) -> int:
    """Estimate the input tokens of a request: its prompt, response schema and crops."""
    text = resolved.prompt + ECHO_INSTRUCTION
    text += json.dumps(response_json_schema(schema, settings.reasoning))
    prompt = math.ceil(len(text) / _CHARS_PER_TOKEN)
    return prompt + sum(crop_tokens(crop, settings) for crop in request.crops)


class OutputEstimate:
    """Estimates the output tokens of a person from the answers so far."""

    def __init__(self) -> None:
        self._persons = self._tokens = 0

    def add(self, persons: int, usage: TokenUsage) -> None:
        """Take the answer to a request about so many persons into account."""
        if usage.output:
            self._persons += persons
            self._tokens += usage.output + usage.thinking

    def tokens(self, persons: int) -> int:
        """Return the expected output tokens of a request about so many persons, thinking included."""
        a_person = self._tokens / self._persons if self._persons else _ANSWER_TOKENS
        return math.ceil(persons * a_person)


def request_cost(
    input_tokens: int, persons: int, output: OutputEstimate, settings: GeminiSettings, batch: bool = False
) -> RequestCost:
    """Return the cost of a request before it is sent."""
    limit = output_limit(persons, settings)
    expected, most = (
        cost_usd(TokenUsage(input_tokens, min(tokens, limit)), settings, batch)
        for tokens in (output.tokens(persons), limit)
    )
    return RequestCost(expected, most)


def cost_usd(
    usage: TokenUsage, settings: GeminiSettings, batch: bool = False, model: str | None = None
) -> float:
    """Return the estimated price of these tokens in US dollars, for another model than the configured one if
    `model` is given.
    """
    price, output = settings.price_of(model), usage.output + usage.thinking
    total = (usage.input * price.input_usd + output * price.output_usd) / 1_000_000
    return total * settings.prices.batch_share if batch else total
