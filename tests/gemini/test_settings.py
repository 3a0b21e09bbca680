"""The gemini section refuses what can't work, and its fingerprint is that of the question."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from actors.attribute_settings import AttributeSettings, SchemaSettings
from actors.attributes import AttributeSchema
from actors.errors import ConfigError
from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.settings import GeminiSettings, resolve_gemini
from tests.support.gemini_asking import SCHEMA


def test_nothing_is_sent_unless_it_is_enabled():
    assert GeminiSettings().enabled is False


def test_every_setting_says_what_it_means():
    sections = [GeminiSettings, *(type(getattr(GeminiSettings(), n)) for n in ("cameras", "prices", "batch"))]
    for section in sections:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "localhost:8000"}, "http or https"),
        ({"base_url": "https://"}, "http or https"),
        ({"base_url": "https://user:word@host"}, "must not contain credentials"),
        ({"base_url": "https://host/?key=AIza"}, "must not contain credentials"),
        ({"model": "models/gemini-2.5-flash"}, "model"),
        ({"api_version": "beta"}, "api_version"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"persons_per_request": 65}, "persons_per_request"),
        (
            {"persons_per_request": 8, "tokens_per_minute": 2000},
            "lower persons_per_request or raise tokens_per_minute",
        ),
        ({"mode": "bulk"}, "mode"),
        ({"audit_share": 1.5}, "audit_share"),
        ({"api_key": "AIza"}, "api_key"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        GeminiSettings(**changes)


def test_the_url_is_kept_without_its_last_slash():
    assert GeminiSettings(base_url="http://127.0.0.1:80/gemini/").base_url == "http://127.0.0.1:80/gemini"


@pytest.mark.parametrize(
    ("cameras", "permitted"),
    [
        ({}, ["till", "door", None]),
        ({"deny": ["till"]}, ["door"]),
        ({"allow": ["till"]}, ["till"]),
        ({"allow": ["till", "door"], "deny": ["till"]}, ["door"]),
        ({"allow": []}, []),
    ],
)
def test_only_permitted_cameras_are_sent(cameras, permitted):
    section = GeminiCameras(**cameras)
    assert [camera for camera in ("till", "door", None) if section.permits(camera)] == permitted


def test_the_prompt_names_every_attribute_and_value():
    prompt = resolve_gemini(GeminiSettings(), SCHEMA).prompt
    assert "{schema}" not in prompt
    for attribute in SCHEMA:
        assert f'"{attribute.name}"' in prompt
    assert '"58 and over"' in prompt


def test_a_prompt_of_ones_own_is_read(tmp_path, caplog):
    path = tmp_path / "prompt.txt"
    path.write_text("  Look.\n{schema}\n")
    own = resolve_gemini(GeminiSettings(prompt=str(path)), SCHEMA)
    assert own.prompt.startswith("Look.\n- ")
    assert own.fingerprint != resolve_gemini(GeminiSettings(), SCHEMA).fingerprint
    assert caplog.records == []
    path.write_text("Look.")
    resolve_gemini(GeminiSettings(prompt=str(path)), SCHEMA)
    assert "{schema}" in caplog.text


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xff"])
def test_a_prompt_that_cannot_be_used_is_named(tmp_path, content):
    path = tmp_path / "prompt.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"gemini\.prompt: .*prompt\.txt"):
        resolve_gemini(GeminiSettings(prompt=str(path)), SCHEMA)


def test_another_schema_or_an_explanation_is_another_question():
    plain = resolve_gemini(GeminiSettings(), SCHEMA).fingerprint
    assert resolve_gemini(GeminiSettings(reasoning=True), SCHEMA).fingerprint != plain
    other = AttributeSchema(SchemaSettings(attributes={"backpack": AttributeSettings(type="boolean")}))
    assert resolve_gemini(GeminiSettings(), other).fingerprint != plain


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "gemini-2.5-pro"},
        {"temperature": 0.5},
        {"thinking_level": "high"},
        {"media_resolution": "high"},
        {"persons_per_request": 3},
        {"requests_per_minute": 99},
        {"mode": "batch"},
        {"seed": 7},
        {"base_url": "http://127.0.0.1:1"},
        {"max_persons": 5},
        {"answer_tokens": 900},
        {"reask": True},
    ],
)
def test_who_is_asked_and_how_is_not_part_of_the_question(changes):
    plain = resolve_gemini(GeminiSettings(), SCHEMA).fingerprint
    assert resolve_gemini(GeminiSettings(**changes), SCHEMA).fingerprint == plain
