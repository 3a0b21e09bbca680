"""Answers of the Gemini server. They depend only on the bytes of each image and on the response schema."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from PIL.JpegImagePlugin import JpegImageFile

from tests.servers.gemini_models import image_tokens, refusal_of, thought_tokens


class BadRequestError(Exception):
    """A request that the server refuses with 400. `field` names the wrong field, or is None for an image."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class ImagePart:
    """One image of a request.

    Attributes:
        id: The last word of the text right before the image; the answer repeats it.
        sha256: SHA-256 of the image's bytes.
        tokens: Number of tokens that the image counts as.
    """

    id: str | None
    sha256: str
    tokens: int


@dataclass(frozen=True)
class Request:
    """A parsed generateContent request. `config` is its generationConfig, with names in camelCase."""

    images: list[ImagePart]
    schema: dict[str, Any] | None
    input_tokens: int
    max_output_tokens: int | None = None
    thought_tokens: int = 0
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        return [image.id for image in self.images if image.id is not None]


def read_request(body: Any, model: str) -> Request:
    """Parse a body for a model, in camelCase, snake_case or a mixture, with either alphabet of base64.

    Raises:
        BadRequestError: Google would refuse the request too.
    """
    body = camel(body)
    if not isinstance(body, dict) or not body.get("contents"):
        raise BadRequestError("* GenerateContentRequest.contents: contents is not specified", "contents")
    config = body.get("generationConfig") or {}
    unknown = set(config) - _CONFIG_KEYS
    if unknown:
        name = sorted(unknown)[0]
        raise BadRequestError(
            f"Invalid JSON payload received. Unknown name \"{name}\" at 'generation_config': "
            "Cannot find field.",
            "generation_config",
        )
    refusal = refusal_of(config, model)
    if refusal is not None:
        # Google names no field in such a refusal.
        raise BadRequestError(refusal)
    images: list[ImagePart] = []
    characters, last_text = 0, ""
    for content in body["contents"]:
        for part in content["parts"]:
            if "text" in part:
                last_text = part["text"]
                characters += len(last_text)
            else:
                images.append(_image(part["inlineData"], last_text, config.get("mediaResolution"), model))
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    _check_keywords(schema or {})
    characters += len(json.dumps(schema)) if schema else 0
    input_tokens = math.ceil(characters / 4) + sum(image.tokens for image in images)
    thoughts = thought_tokens(config, model)
    return Request(images, schema, input_tokens, config.get("maxOutputTokens"), thoughts, config)


def answer_text(request: Request) -> str:
    """Return JSON that fits the schema: a list with an answer for each image, or an answer for one image."""
    schema = request.schema
    if schema is None:
        return "A text without a schema."
    found = _list_of_persons(schema)
    if found is None:
        return json.dumps(answer_value(schema, request.images[0].sha256 if request.images else "", ""))
    key, items, id_key = found
    answers = []
    for image in request.images:
        answer = answer_value(items, image.sha256, "")
        if id_key:
            answer[id_key] = image.id
        answers.append(answer)
    return json.dumps({key: answers})


def given_for(request: Request, given: dict[str, bytes]) -> bytes | None:
    """Return what is given for an image of the request, with its id, or None."""
    found = [image for image in request.images if image.sha256 in given]
    return given[found[0].sha256].replace(b"@ID@", str(found[0].id).encode()) if found else None


def list_key(request: Request) -> str | None:
    """Return the name of the answer's list, or None if the schema doesn't ask for a list."""
    found = _list_of_persons(request.schema or {})
    return found[0] if found else None


def camel(node: Any, inside_schema: bool = False) -> Any:
    """Convert keys to camelCase, except inside a schema. Google's parser accepts both spellings."""
    if isinstance(node, list):
        return [camel(item, inside_schema) for item in node]
    if not isinstance(node, dict) or inside_schema:
        return node
    changed = {}
    for key, value in node.items():
        name = re.sub(r"_([a-z])", lambda match: match.group(1).upper(), key)
        changed[name] = camel(value, name in ("responseJsonSchema", "responseSchema"))
    return changed


def _image(data: dict[str, Any], text_before: str, resolution: str | None, model: str) -> ImagePart:
    encoded = data["data"].replace("-", "+").replace("_", "/")
    try:
        content = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        # Image.open is avoided because ultralytics replaces it in a process that imports ultralytics.
        with JpegImageFile(io.BytesIO(content)) as image:
            width, height = image.size
    except (ValueError, SyntaxError):
        raise BadRequestError("Unable to process input image. Please retry or report in ...") from None
    words = text_before.split()
    return ImagePart(
        words[-1] if words else None,
        hashlib.sha256(content).hexdigest(),
        image_tokens(width, height, resolution, model),
    )


def _check_keywords(schema: dict[str, Any]) -> None:
    """Refuse keywords that Gemini doesn't list as supported, although Gemini may ignore some of them."""
    unknown = set(schema) - _SCHEMA_KEYWORDS
    if unknown:
        raise BadRequestError(
            f"unsupported keyword {sorted(unknown)[0]}", "generation_config.response_schema"
        )
    items = [schema["items"]] if "items" in schema else []
    for inner in [*schema.get("properties", {}).values(), *schema.get("anyOf", []), *items]:
        _check_keywords(inner)


def _list_of_persons(schema: dict[str, Any]) -> tuple[str, dict[str, Any], str | None] | None:
    """Return the list's name, its items' schema and the name of their id, if the answer is one list."""
    properties = schema.get("properties", {})
    for key, value in properties.items():
        if len(properties) == 1 and value.get("type") == "array":
            items = value["items"]
            names = [name for name in items["properties"] if name == "id" or name.endswith("_id")]
            return key, items, names[0] if names else None
    return None


def answer_value(schema: dict[str, Any], sha256: str, path: str) -> Any:
    """Return a value that the schema allows. It depends on the image and on the place in the schema."""
    draw = int(hashlib.sha256(f"{sha256}{path}".encode()).hexdigest(), 16)
    if "anyOf" in schema:
        return answer_value(schema["anyOf"][draw % len(schema["anyOf"])], sha256, f"{path}|")
    if "enum" in schema:
        return schema["enum"][draw % len(schema["enum"])]
    kind = schema.get("type")
    if kind == "object":
        return {k: answer_value(v, sha256, f"{path}.{k}") for k, v in schema["properties"].items()}
    if kind == "boolean":
        return bool(draw % 2)
    if kind == "integer":
        low, high = schema.get("minimum", 0), schema.get("maximum", 100)
        return low + draw % (high - low + 1)
    if kind == "null":
        return None
    if kind == "string":
        return f"as in image {sha256[:8]}"
    raise BadRequestError(f"generation_config.response_json_schema: type {kind!r}", "generation_config")


_CONFIG_KEYS = frozenset(
    {
        "temperature",
        "topP",
        "topK",
        "candidateCount",
        "maxOutputTokens",
        "stopSequences",
        "presencePenalty",
        "frequencyPenalty",
        "seed",
        "responseMimeType",
        "responseSchema",
        "responseJsonSchema",
        "thinkingConfig",
        "mediaResolution",
    }
)

# google-genai lists these at GenerateContentConfig.response_json_schema.
_SCHEMA_KEYWORDS = frozenset(
    {
        "type",
        "format",
        "title",
        "description",
        "enum",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "anyOf",
        "oneOf",
        "properties",
        "additionalProperties",
        "required",
        "propertyOrdering",
    }
)
