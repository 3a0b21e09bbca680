"""Build requests to Gemini, with the same content for online calls and for the lines of a batch file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.attributes import REASONING_KEY, AttributeSchema
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


def response_json_schema(schema: AttributeSchema, reasoning: bool) -> dict[str, Any]:
    """Return the JSON schema of an answer to any number of crops.

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
    """Return the options for generating the answer."""
    from google.genai import types

    thinking, budget = None, settings.thinking_budget
    if budget is not None:
        thinking = types.ThinkingConfig(thinking_budget=budget)
    # Thinking tokens count towards the limit, so there is no limit if the model chooses how long it thinks.
    limit = None
    if budget is not None and budget >= 0:
        limit = len(request.crops) * settings.answer_tokens + budget
    resolution = None
    if settings.media_resolution != "auto":
        resolution = types.MediaResolution(f"MEDIA_RESOLUTION_{settings.media_resolution.upper()}")
    return types.GenerateContentConfig(
        temperature=settings.temperature,
        max_output_tokens=limit,
        response_mime_type="application/json",
        response_json_schema=response_json_schema(schema, settings.reasoning),
        thinking_config=thinking,
        media_resolution=resolution,
    )


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
