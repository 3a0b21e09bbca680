"""What is sent to Gemini: the same content online and as a line of a batch."""

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

# Sent to the model as the field's meaning.
_ID_DESCRIPTION = "The id that stands before the image, copied letter by letter"


def response_json_schema(schema: AttributeSchema, reasoning: bool) -> dict[str, Any]:
    """JSON schema of an answer to any number of crops.

    It names neither the ids nor their count, so that it is the same for every request: long schemas with
    many bounds are refused ("too many states for serving"), and ids that a schema forces on the model
    would no longer tell which image it looked at.
    """
    person = schema.json_schema(reasoning)
    person["properties"] = {
        ID_KEY: {"type": "string", "description": _ID_DESCRIPTION},
        **person["properties"],
    }
    person["required"] = [ID_KEY, *person["required"]]
    # Not among the keywords that Gemini lists as supported; the prompt says it, and the answer is cut to it.
    person["properties"].get(REASONING_KEY, {}).pop("maxLength", None)
    return {
        "type": "object",
        "properties": {PERSONS_KEY: {"type": "array", "items": person}},
        "required": [PERSONS_KEY],
        "additionalProperties": False,
    }


def request_contents(request: PackedRequest, resolved: ResolvedGemini) -> list[types.Content]:
    """Prompt, then each crop behind its id, as one turn."""
    from google.genai import types

    parts = [types.Part.from_text(text=f"{resolved.prompt}\n{ECHO_INSTRUCTION}")]
    for echo_id, crop in zip(request.ids, request.crops, strict=True):
        parts.append(types.Part.from_text(text=f"{ID_KEY}: {echo_id}"))
        parts.append(types.Part.from_bytes(data=crop.jpeg, mime_type="image/jpeg"))
    return [types.Content(role="user", parts=parts)]


def generation_config(
    request: PackedRequest, settings: GeminiSettings, schema: AttributeSchema
) -> types.GenerateContentConfig:
    """How the answer is to be generated."""
    from google.genai import types

    thinking, budget = None, settings.thinking_budget
    if budget is not None:
        thinking = types.ThinkingConfig(thinking_budget=budget)
    # Thinking counts towards the limit, so where its length is the model's choice there can be none.
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
    """The request as JSON, as a batch file holds it: what the online call sends, under the same names."""
    contents = request_contents(request, resolved)
    config = generation_config(request, settings, schema)
    return {
        "contents": [c.model_dump(mode="json", by_alias=True, exclude_none=True) for c in contents],
        "generationConfig": config.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
