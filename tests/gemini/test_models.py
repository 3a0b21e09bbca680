"""Each family of models gets the arguments that it accepts, and a refused one stops the stage at once."""

from __future__ import annotations

import pytest

from actors.fingerprint import crop_sha256
from actors.gemini.api.model_families import GEMINI_2_5, GEMINI_3, family_of, is_known
from actors.gemini.notices import notices_of
from actors.gemini.settings import GeminiSettings, resolve_gemini
from tests.servers.gemini_server import MODEL, MODEL_2_5, gemini_server
from tests.support.gemini_asking import SCHEMA, asking, jpeg, packed
from tests.support.online_asking import ask


def test_the_default_is_a_model_that_is_not_about_to_end():
    assert GeminiSettings().model == MODEL
    assert notices_of(GeminiSettings()) == ()


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        (
            MODEL,
            {
                "maxOutputTokens": 2 * 512 + 1024,
                "mediaResolution": "MEDIA_RESOLUTION_LOW",
                "thinkingConfig": {"thinkingLevel": "MINIMAL"},
            },
        ),
        (
            "gemini-3.1-pro-preview",
            {
                "maxOutputTokens": 2 * 512 + 4096,
                "mediaResolution": "MEDIA_RESOLUTION_LOW",
                "thinkingConfig": {"thinkingLevel": "LOW"},
            },
        ),
        (
            MODEL_2_5,
            {"maxOutputTokens": 2 * 512, "temperature": 0.0, "thinkingConfig": {"thinkingBudget": 0}},
        ),
        (
            "gemini-2.5-pro",
            {"maxOutputTokens": 2 * 512 + 128, "temperature": 0.0, "thinkingConfig": {"thinkingBudget": 128}},
        ),
    ],
)
def test_each_model_gets_what_its_family_accepts(model, sent):
    with gemini_server(models=(model,)) as server:
        answer = asking(server.base_url, server.key, lambda c: c.ask(packed(2)), model=model)
        (seen,) = server.journal
    assert {a.status for a in answer.annotations.values()} == {"ok"}
    for key in ("responseJsonSchema", "responseMimeType"):
        seen.config.pop(key)
    assert seen.config == sent


@pytest.mark.parametrize("model", [MODEL, MODEL_2_5])
@pytest.mark.parametrize(
    "changes",
    [
        {"thinking_level": "high", "thinking_budget": 500, "temperature": 1.5},
        {"thinking_budget": -1, "media_resolution": "high"},
        {"thinking_level": "low", "media_resolution": "medium", "temperature": None},
        {"answer_tokens": 8192, "thinking_level": "high", "thinking_budget": -1},
    ],
)
def test_no_settings_send_both_ways_of_thinking_or_no_limit(model, changes):
    with gemini_server(models=(model,)) as server:
        answer = asking(server.base_url, server.key, lambda c: c.ask(packed(12)), model=model, **changes)
        (seen,) = server.journal
    assert {a.status for a in answer.annotations.values()} == {"ok"}
    assert len(seen.config["thinkingConfig"]) == 1
    assert 0 < seen.config["maxOutputTokens"] <= 65_536
    assert ("temperature" in seen.config) == (
        model == MODEL_2_5 and changes.get("temperature", 0) is not None
    )


@pytest.mark.parametrize(
    ("model", "family", "known"),
    [
        ("gemini-2.5-flash", GEMINI_2_5, True),
        ("gemini-2.5-flash-lite-preview-09-2025", GEMINI_2_5, True),
        ("gemini-3-flash-preview", GEMINI_3, True),
        ("gemini-3.8-flash", GEMINI_3, True),
        ("gemini-4-flash", GEMINI_3, False),
        ("gemini-30-flash", GEMINI_3, False),
        ("gemini-flash-latest", GEMINI_3, False),
        ("gemma-4", GEMINI_3, False),
    ],
)
def test_an_unknown_model_has_the_rules_of_the_newest_family_and_this_is_said(model, family, known):
    assert family_of(model) is family
    assert is_known(model) is known
    said = " ".join(resolve_gemini(GeminiSettings(model=model), SCHEMA).notices)
    assert ("not in Shopframe's table of models" in said) is not known


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"thinking_budget": 0}, "gemini.thinking_budget: has no effect on gemini-3.5-flash-lite"),
        ({"model": MODEL_2_5, "thinking_level": "low"}, "gemini.thinking_level: has no effect on"),
        ({"temperature": 0.5}, "gemini.temperature: has no effect on"),
        ({"model": "gemini-3.8-flash", "max_cost_usd": 1}, "is an estimate ($0.75 in, $3.75 out"),
    ],
)
def test_settings_without_effect_and_estimated_prices_are_named(changes, said):
    (notice,) = notices_of(GeminiSettings(**changes))
    assert said in notice


def test_an_argument_that_is_refused_without_a_name_stops_after_two_requests(tmp_path, monkeypatch):
    crops = [jpeg(n) for n in range(48)]
    with gemini_server(models=("gemini-2.5-pro",)) as server:
        changes = {"model": "gemini-2.5-pro", "thinking_budget": 0, "max_in_flight": 1}
        found = ask(tmp_path, server, monkeypatch, crops, **changes)
        assert [seen.status for seen in server.counted] == [400, 400]
    assert found.entries == {}
    assert found.stop is not None
    assert found.stop.kind == "refused"
    assert "Budget 0 is invalid" in found.stop.reason
    assert "change gemini.thinking_budget" in found.stop.reason


def test_requests_in_flight_at_once_share_one_question_about_the_arguments(tmp_path, monkeypatch):
    crops = [jpeg(n) for n in range(48)]
    with gemini_server(models=("gemini-3.1-pro",)) as server:
        changes = {"model": "gemini-3.1-pro", "thinking_level": "minimal", "max_in_flight": 6}
        found = ask(tmp_path, server, monkeypatch, crops, **changes)
        assert len(server.counted) <= 6 + 1
    assert found.stop is not None
    assert "change gemini.thinking_level" in found.stop.reason


def test_a_refused_crop_stays_its_own_outcome(tmp_path, monkeypatch):
    crops = [b"not an image", *(jpeg(n) for n in range(7))]
    with gemini_server() as server:
        found = ask(tmp_path, server, monkeypatch, crops)
        blank = [seen for seen in server.journal if seen.status == 200 and len(seen.images) == 1]
    assert found.stop is None
    statuses = {digest: entry.annotation.status for digest, entry in found.entries.items()}
    assert statuses.pop(crop_sha256(b"not an image")) == "error"
    assert list(statuses.values()) == ["ok"] * 7
    assert blank
