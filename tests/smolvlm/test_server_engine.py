"""A server that the user runs annotates crops; its faults stay its own, and a bad crop stays one."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.errors import ConfigError, ServerUnavailableError
from actors.records import SETTLED
from actors.smolvlm.server_engine import ServerEngine
from actors.smolvlm.server_settings import ServerSettings
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from tests.servers.chat_server import CHOSEN, MODEL, OTHERS, chat_server, expected_answer
from tests.servers.llmock_process import llmock_process

SCHEMA = AttributeSchema(SchemaSettings())
KEY = "sk-only-for-loopback"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in ("SMOLVLM_API_KEY", "OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


def settings_of(base_url, **server):
    fast = {"retries": 1, "outage_s": 0.5, "timeout_s": 30}
    return SmolVLMSettings.model_validate(
        {"engine": "server", "model": MODEL, "server": {"base_url": base_url, **fast, **server}}
    )


def engine_of(base_url, *, model=None, reasoning=False, **server):
    settings = settings_of(base_url, **server)
    settings = settings.model_copy(update={"model": model or MODEL, "reasoning": reasoning})
    return ServerEngine(settings, resolve_smolvlm(settings, SCHEMA), SCHEMA)


@pytest.fixture(scope="module")
def crops():
    rng = np.random.default_rng(0)
    made = []
    for _ in range(12):
        sink = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (60, 30, 3), dtype=np.uint8)).save(sink, "JPEG")
        made.append(sink.getvalue())
    return made


def digest(crop):
    return hashlib.sha256(crop).hexdigest()


def expected(crop):
    return SCHEMA.parse(expected_answer(SCHEMA.json_schema(reasoning=False), crop))


# Answers


def test_each_crop_is_asked_about_once_and_gets_its_own_answer(crops):
    seen = {}
    with chat_server() as server:
        engine = engine_of(server.base_url, max_in_flight=4)
        found = engine.annotate(
            crops, lambda start, answers: seen.update({start + i: a for i, a in enumerate(answers)})
        )
    assert [answer.status for answer in found] == ["ok"] * len(crops)
    assert [answer.values for answer in found] == [expected(crop) for crop in crops]
    assert seen == dict(enumerate(found))
    assert {server.asked[digest(crop)] for crop in crops} == {1}
    # One more question, about a grey picture, was asked when the engine was loaded.
    assert len(server.requests) == len(crops) + 1
    assert 1 < server.most_at_once <= 4


def test_the_question_has_prompt_schema_and_picture(crops):
    with chat_server() as server:
        engine_of(server.base_url, answer_tokens=99).annotate(crops[:1])
    request = server.requests[-1]
    assert request["text"] == resolve_smolvlm(settings_of(server.base_url), SCHEMA).prompt
    assert request["response_format"]["json_schema"]["schema"] == SCHEMA.json_schema(reasoning=False)
    assert (request["model"], request["temperature"], request["max_tokens"]) == (MODEL, 0, 99)


def test_confidences_are_the_shares_among_the_allowed_values(crops):
    with chat_server() as server:
        (found,) = engine_of(server.base_url).annotate(crops[:1])
    share = CHOSEN / (CHOSEN + OTHERS)
    for name in ("gender", "cap", "season_clothing"):
        assert found.confidence[name] == pytest.approx(share)
        assert found.distribution[name][0] == (found.values[name], pytest.approx(share))
        assert sum(probability for _, probability in found.distribution[name]) == pytest.approx(1, abs=1e-5)
    assert {name for name in SCHEMA.names if name not in found.confidence} == set()


def test_a_server_without_logprobs_is_asked_without_them(crops, caplog):
    with chat_server(knows_logprobs=False) as server, caplog.at_level(logging.WARNING):
        found = engine_of(server.base_url).annotate(crops)
    assert [answer.values for answer in found] == [expected(crop) for crop in crops]
    assert {len(answer.confidence) for answer in found} == {0}
    assert caplog.text.count("so there are no confidences") == 1
    # Only the first question was asked twice.
    assert ["logprobs" in request for request in server.requests] == [True] + [False] * (len(crops) + 1)


def test_an_explanation_is_asked_for_and_kept(crops):
    with chat_server() as server:
        (found,) = engine_of(server.base_url, reasoning=True).annotate(crops[:1])
    assert found.reasoning == f"as in image {digest(crops[0])[:8]}"


def test_llmock_which_we_did_not_write_answers(crops):
    with llmock_process() as server:
        engine = engine_of(f"{server.url}/v1", model="gpt-4o-mini")
        found = engine.annotate(crops)
        requests = [r for r in server.get("requests")["requests"] if r["path"].endswith("completions")]
        verdict = server.get("verdict")
    assert [answer.status for answer in found] == ["ok"] * len(crops)
    assert len(requests) == len(crops) + 1
    assert verdict["passed"], verdict


def test_llmock_that_is_too_busy_for_a_while_is_asked_again_as_it_says(crops):
    with llmock_process() as server:
        engine = engine_of(f"{server.url}/v1", model="gpt-4o-mini", max_in_flight=1, retries=3)
        server.script({"type": "fail", "status": 503}, {"type": "fail", "status": 429, "retry_after": 1})
        found = engine.annotate(crops[:3])
        verdict = server.get("verdict")
    assert [answer.status for answer in found] == ["ok"] * 3
    assert verdict["passed"], verdict


# One bad crop stays one


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("400", "error", "the server refuses this crop: 400 as told"),
        ("500", "error", "the server fails on this crop: smolvlm.server: 500 as told"),
        ("drop", "error", "the server fails on this crop"),
        ("page", "error", "doesn't answer as a chat completion"),
        ("empty", "error", "doesn't answer as a chat completion"),
        ("truncated", "truncated", "longer than smolvlm.server.answer_tokens"),
        ("filtered", "blocked", "filter"),
        ("broken json", "invalid", "not a valid answer"),
    ],
)
def test_a_crop_with_which_something_is_wrong_does_not_concern_the_others(crops, fault, status, said):
    with chat_server() as server:
        server.bad_crops[digest(crops[5])] = fault
        found = engine_of(server.base_url).annotate(crops)
    assert [answer.status for answer in found] == ["ok"] * 5 + [status] + ["ok"] * 6
    assert said in found[5].reason
    assert [a.values for i, a in enumerate(found) if i != 5] == [
        expected(c) for i, c in enumerate(crops) if i != 5
    ]
    assert {server.answered[digest(crop)] for crop in (*crops[:5], *crops[6:])} == {1}


def test_a_crop_that_is_never_answered_is_given_up_and_the_others_are_not(crops):
    with chat_server() as server:
        server.bad_crops[digest(crops[0])] = "hang"
        engine = engine_of(server.base_url, timeout_s=1, retries=0)
        found = engine.annotate(crops)
    assert [answer.status for answer in found] == ["error"] + ["ok"] * 11
    assert "no answer from http://127.0.0.1" in found[0].reason
    assert "within 1 s" in found[0].reason


def test_something_that_is_no_picture_is_refused_alone(crops):
    with chat_server() as server:
        found = engine_of(server.base_url).annotate([crops[0], b"no JPEG", crops[1]])
    assert [answer.status for answer in found] == ["ok", "error", "ok"]
    # It is asked about again by the next run.
    assert found[1].status not in SETTLED


@pytest.mark.parametrize("fault", ["500", "429", "drop"])
def test_a_passing_fault_costs_no_answer(crops, fault):
    with chat_server() as server:
        engine = engine_of(server.base_url, retries=2)
        server.next_faults += [fault] * 2
        found = engine.annotate(crops)
    assert [answer.values for answer in found] == [expected(crop) for crop in crops]
    assert {server.answered[digest(crop)] for crop in crops} == {1}


# A server that dies


def test_a_server_that_dies_gives_no_outcomes_but_an_error_of_the_infrastructure(crops):
    kept = {}
    with chat_server(dies_after=4) as server:
        engine = engine_of(server.base_url, max_in_flight=1, retries=0)
        with pytest.raises(ServerUnavailableError, match=r"smolvlm\.server: .* can't be reached"):
            engine.annotate(crops, lambda start, answers: kept.update({start: answers[0]}))
    # The first one was about the grey picture.
    assert [answer.status for answer in kept.values()] == ["ok"] * 3


def test_a_server_that_comes_back_is_waited_for(crops):
    with chat_server(dies_after=4) as server:
        engine = engine_of(server.base_url, max_in_flight=2, retries=0, outage_s=120)
        back = threading.Event()

        def revive(*_):
            # After the first answers, as soon as the server is down.
            if not back.is_set():
                back.set()
                threading.Thread(target=_revive_when_down, args=(server,), daemon=True).start()

        found = engine.annotate(crops, revive)
    assert [answer.values for answer in found] == [expected(crop) for crop in crops]
    assert {server.answered[digest(crop)] for crop in crops} == {1}


def _revive_when_down(server):
    while not server.is_down:
        threading.Event().wait(0.01)
    server.dies_after = None
    server.is_down = False


def test_a_server_that_refuses_everything_later_is_down_and_not_the_crops(crops):
    with chat_server() as server:
        engine = engine_of(server.base_url)
        server.models = ("another",)
        with pytest.raises(
            ServerUnavailableError, match=f"has no model {MODEL}: set smolvlm.model to one of"
        ):
            engine.annotate(crops)


def test_a_server_that_is_not_up_yet_is_no_error_of_the_settings(crops, caplog):
    with chat_server(is_down=True) as server, caplog.at_level(logging.WARNING):
        engine = engine_of(server.base_url)
        assert "shards wait for it" in caplog.text
        server.is_down = False
        assert [answer.status for answer in engine.annotate(crops)] == ["ok"] * len(crops)


# Settings and keys


def test_the_key_comes_from_the_environment_and_is_never_shown(crops, monkeypatch):
    with chat_server(key=KEY) as server:
        with pytest.raises(ConfigError, match=r"401.*set its key in SMOLVLM_API_KEY on every node"):
            engine_of(server.base_url)
        monkeypatch.setenv("SMOLVLM_API_KEY", "sk-wrong")
        with pytest.raises(ConfigError) as raised:
            engine_of(server.base_url)
        assert "sk-wrong" not in str(raised.value)
        monkeypatch.setenv("SMOLVLM_API_KEY", KEY)
        engine = engine_of(server.base_url)
        server.bad_crops[digest(crops[0])] = "500"
        (found,) = engine.annotate(crops[:1])
        assert KEY not in found.reason
    monkeypatch.setenv("SMOLVLM_API_KEY", "two words")
    with pytest.raises(ConfigError, match="SMOLVLM_API_KEY: contains characters"):
        resolve_smolvlm(settings_of("http://localhost/v1"), SCHEMA)


def test_nothing_that_is_meant_for_openai_is_sent_to_another_server(crops, monkeypatch):
    secrets = {"OPENAI_API_KEY": "sk-open", "OPENAI_ORG_ID": "org-secret", "OPENAI_PROJECT_ID": "proj-secret"}
    for name, value in {**secrets, "OPENAI_ADMIN_KEY": "sk-admin"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    with chat_server() as server:
        engine_of(server.base_url).annotate(crops[:1])
    sent = json.dumps(server.headers)
    assert len(server.headers) == 2
    for value in (*secrets.values(), "sk-admin"):
        assert value not in sent


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": ("other",)}, f"404.*it has no model {MODEL}: set smolvlm.model to one of other"),
        ({"takes_pictures": False}, f"400.*does {MODEL} take pictures"),
    ],
)
def test_a_server_that_can_not_answer_is_an_error_of_the_settings(options, said):
    with chat_server(**options) as server, pytest.raises(ConfigError, match=said):
        engine_of(server.base_url)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://user:secret@host/v1",
        "http://host/v1?key=secret",
        "http://host:port/v1",
    ],
)
def test_an_address_that_is_none_or_has_a_secret_is_refused(url):
    with pytest.raises(ValidationError, match="base_url"):
        ServerSettings(base_url=url)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"server": {}}, r"server\.base_url must be set"),
        ({"gpus_per_actor": 1}, "gpus_per_actor is the server's to decide"),
        ({"dtype": "float32"}, "dtype is the server's to decide"),
        ({"image_size_px": 64}, "image_size_px is the server's to decide"),
    ],
)
def test_what_the_server_decides_is_not_a_setting(changes, said):
    with pytest.raises(ValidationError, match=said):
        SmolVLMSettings.model_validate(
            {"engine": "server", "server": {"base_url": "http://localhost/v1"}, **changes}
        )


def test_the_fingerprint_follows_the_question_and_not_the_way_to_the_server():
    def fingerprint(url="http://one:8000/v1", **changes):
        settings = settings_of(url, **changes.pop("server", {}))
        return resolve_smolvlm(settings.model_copy(update=changes), SCHEMA).fingerprint

    base = fingerprint()
    changed = [fingerprint(model="other"), fingerprint(revision="b"), fingerprint(reasoning=True)]
    assert len({base, *changed}) == 4
    moved = {"retries": 9, "timeout_s": 9, "max_in_flight": 9, "outage_s": 9}
    assert fingerprint("https://two/v1", server=moved, batch_size=3, actors=4) == base
