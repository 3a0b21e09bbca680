"""Build requests to Gemini, with the same content for online calls and for the lines of a batch file."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from actors.attributes import REASONING_KEY, AttributeSchema
from actors.gemini.api.model_families import MOST_OUTPUT_TOKENS, thinking_allowance
from actors.gemini.api.packing import PackedRequest
from actors.gemini.settings import ID_KEY, GeminiSettings, ResolvedGemini

if TYPE_CHECKING:
    from google.genai import types

PERSONS_KEY = "persons"

ECHO_INSTRUCTION = (
    f'Before each image stands its id. Answer with one JSON object: "{PERSONS_KEY}" is a list with one '
    f'answer an image, in the order of the images, and each answer begins with "{ID_KEY}", the id before '
    "its image, copied letter by letter."
)

# Sent to the model as the description of the field.
_ID_DESCRIPTION = "The id that stands before the image, copied letter by letter"


@lru_cache(maxsize=8)
def response_json_schema(schema: AttributeSchema, reasoning: bool) -> dict[str, Any]:
    """Return the JSON schema of an answer to any number of crops, which must not be changed.

    The schema contains neither the ids nor their count, so it is the same for every request. Gemini
    refuses long schemas with many bounds ("too many states for serving"). Also, if the schema dictated the
    ids, an echoed id would no longer show which image the model looked at.
    """
    person = schema.json_schema(reasoning)
    person["properties"] = {
        ID_KEY: {"type": "string", "description": _ID_DESCRIPTION},
        **person["properties"],
    }
    person["required"] = [ID_KEY, *person["required"]]
    # Gemini doesn't list maxLength among the supported keywords. The prompt states the limit instead, and
    # `read_answer` cuts longer text.
    person["properties"].get(REASONING_KEY, {}).pop("maxLength", None)
    return {
        "type": "object",
        "properties": {PERSONS_KEY: {"type": "array", "items": person}},
        "required": [PERSONS_KEY],
        "additionalProperties": False,
    }


def request_contents(request: PackedRequest, resolved: ResolvedGemini) -> list[types.Content]:
    """Return one turn with the prompt, followed by the id and image of each crop."""
    from google.genai import types

    parts = [types.Part.from_text(text=f"{resolved.prompt}\n{ECHO_INSTRUCTION}")]
    for echo_id, crop in zip(request.ids, request.crops, strict=True):
        parts.append(types.Part.from_text(text=f"{ID_KEY}: {echo_id}"))
        parts.append(types.Part.from_bytes(data=crop.jpeg, mime_type="image/jpeg"))
    return [types.Content(role="user", parts=parts)]


def generation_config(
    request: PackedRequest, settings: GeminiSettings, schema: AttributeSchema
) -> types.GenerateContentConfig:
    """Return the options for generating the answer, limited to those that the model's family accepts."""
    from google.genai import types

    level, budget = settings.level, settings.budget
    if level is not None:
        thinking = types.ThinkingConfig(thinking_level=types.ThinkingLevel(level.upper()))
    else:
        thinking = types.ThinkingConfig(thinking_budget=budget)
    asked = settings.family.resolution(settings.media_resolution)
    resolution = None if asked is None else types.MediaResolution(f"MEDIA_RESOLUTION_{asked.upper()}")
    return types.GenerateContentConfig(
        temperature=settings.temperature if settings.family.follows_temperature else None,
        max_output_tokens=output_limit(len(request.crops), settings),
        response_mime_type="application/json",
        response_json_schema=response_json_schema(schema, settings.reasoning),
        thinking_config=thinking,
        media_resolution=resolution,
    )


def output_limit(crops: int, settings: GeminiSettings) -> int:
    """Return the most output tokens that a request allows, to which tokens of thinking count too."""
    limit = crops * settings.answer_tokens + thinking_allowance(settings.level, settings.budget)
    return min(limit, MOST_OUTPUT_TOKENS)


def request_body(
    request: PackedRequest, settings: GeminiSettings, resolved: ResolvedGemini, schema: AttributeSchema
) -> dict[str, Any]:
    """Return the request as JSON for a batch file, with the same content and names as the online call."""
    contents = request_contents(request, resolved)
    config = generation_config(request, settings, schema)
    return {
        "contents": [c.model_dump(mode="json", by_alias=True, exclude_none=True) for c in contents],
        "generationConfig": config.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
