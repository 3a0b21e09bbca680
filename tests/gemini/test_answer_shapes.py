"""What an answer may contain, and what becomes of an answer of any other shape."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import SecretStr

from actors.attribute_settings import AttributeSettings, SchemaSettings
from actors.attributes import AttributeSchema
from actors.errors import ConfigError
from actors.gemini.api.answer import read_answer
from actors.gemini.api.client import GeminiClient
from actors.gemini.settings import GeminiSettings, resolve_gemini
from tests.servers.gemini_server import gemini_server
from tests.support.gemini_asking import SCHEMA, asking, packed, settings_for, single


def test_a_reason_is_asked_for_and_cut_where_it_is_long():
    settings = settings_for("http://127.0.0.1:1", reasoning=True)
    assert '"reasoning"' in resolve_gemini(settings, SCHEMA).prompt
    with gemini_server() as server:
        answer = asking(server.base_url, server.key, lambda c: c.ask(single()), reasoning=True)
    (annotation,) = answer.annotations.values()
    assert annotation.reasoning
    request, long = single(), "x" * 1000
    item = {"image_id": request.ids[0], **SCHEMA.nest(annotation.values), "reasoning": long}
    text = {"parts": [{"text": json.dumps({"persons": [item]})}]}
    read = read_answer({"candidates": [{"content": text, "finishReason": "STOP"}]}, request, SCHEMA)
    assert read.annotations[request.crops[0].key].reasoning == "x" * 300


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"candidates": "none"},
        {"candidates": [None]},
        {"candidates": [{"content": {"parts": "none"}}]},
        {"candidates": [{"content": {"parts": [{"inlineData": {}}]}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": [{"text": "[]"}]}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": [{"text": '{"persons": [1]}'}]}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": [{"text": '{"persons": {}}'}]}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": [{"text": '{"persons": [{}]}'}]}, "finishReason": "STOP"}]},
        {"candidates": [{"finishReason": "A_NEW_REASON"}], "usageMetadata": {"promptTokenCount": "many"}},
        {"promptFeedback": {"blockReason": "A_NEW_REASON"}},
    ],
)
def test_no_shape_of_a_response_is_more_than_an_outcome(body):
    answer = read_answer(body, single(), SCHEMA)
    (annotation,) = answer.annotations.values()
    assert annotation.status in ("error", "invalid", "blocked")
    assert read_answer(body, packed(2), SCHEMA).split_reason


def test_an_attribute_may_not_be_called_like_the_images_id():
    schema = AttributeSchema(
        SchemaSettings(attributes={"image_id": AttributeSettings(type="boolean", nested=False)})
    )
    with pytest.raises(ConfigError, match="image_id"):
        resolve_gemini(GeminiSettings(), schema)


def test_another_schema_is_answered_as_it_says():
    attributes = {
        "backpack": AttributeSettings(type="boolean", nested=False),
        "sleeves": AttributeSettings(type="category", values=("long", "short"), nested=False),
    }
    schema = AttributeSchema(SchemaSettings(attributes=attributes))
    with gemini_server() as server:
        settings = settings_for(server.base_url)

        async def run():
            resolved = resolve_gemini(settings, schema)
            opened = GeminiClient(settings, resolved, schema, SecretStr(server.key))
            try:
                return await opened.ask(packed(8))
            finally:
                await opened.close()

        answer = asyncio.run(run())
    assert {tuple(a.values) for a in answer.annotations.values()} == {("backpack", "sleeves")}
