"""The local Gemini server enforces its quota, answers by content, and reads what any client may send.

These tests send plain HTTP instead of using google-genai, so an error that both share can't stay hidden.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime

import pytest

from tests.conftest import REPO_ROOT
from tests.servers.gemini_clock import Limits, Quota, ServerClock
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import KEY, MODEL, MODEL_2_5, GeminiServer, gemini_server
from tests.support.gemini_asking import jpeg

SCHEMA = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "photo_id": {"type": "string"},
                    "hat": {"type": "boolean"},
                    "age": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"type": "null"}]},
                    "size": {"type": "string", "enum": ["s", "m", "l"]},
                },
            },
        }
    },
}


def body(*images: bytes, schema=SCHEMA):
    parts = []
    for number, image in enumerate(images):
        parts.append({"text": f"photo p{number}"})
        data = base64.b64encode(image).decode()
        parts.append({"inlineData": {"mimeType": "image/jpeg", "data": data}})
    config = {"responseJsonSchema": schema} if schema else {}
    return {"contents": [{"role": "user", "parts": parts}], "generationConfig": config}


def post(server: GeminiServer, path: str, content, key: str = KEY):
    """Send a POST and return the status, the JSON and the headers of the response."""
    request = urllib.request.Request(
        f"{server.base_url}{path}",
        json.dumps(content).encode(),
        {"x-goog-api-key": key, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def generate(server: GeminiServer, content=None, **options):
    content = content or body(jpeg(1))
    return post(server, f"/v1beta/models/{MODEL}:generateContent", content, **options)[:2]


def people(answer):
    return json.loads(answer["candidates"][0]["content"]["parts"][0]["text"])["people"]


def test_answers_depend_on_the_images_bytes_and_echo_their_ids():
    with gemini_server() as server:
        _, answer = generate(server, body(jpeg(1), jpeg(2), jpeg(1)))
        _, other = generate(server, body(jpeg(2)))
    first, second, third = people(answer)
    assert [item["photo_id"] for item in people(answer)] == ["p0", "p1", "p2"]
    for item in (first, second, third):
        assert set(item) == set(SCHEMA["properties"]["people"]["items"]["properties"])
        assert item["size"] in "sml"
        assert item["age"] is None or 1 <= item["age"] <= 9
    assert first | {"photo_id": ""} == third | {"photo_id": ""}
    assert people(other)[0] | {"photo_id": ""} == second | {"photo_id": ""}


def test_a_single_answer_is_given_where_the_schema_asks_for_no_list():
    item = SCHEMA["properties"]["people"]["items"]
    alone = {"type": "object", "properties": {k: v for k, v in item["properties"].items() if k != "photo_id"}}
    with gemini_server() as server:
        _, listed = generate(server, body(jpeg(1)))
        _, answer = generate(server, body(jpeg(1), schema=alone))
    text = json.loads(answer["candidates"][0]["content"]["parts"][0]["text"])
    assert {**text, "photo_id": "p0"} == people(listed)[0]


def test_snake_case_and_both_alphabets_of_base64_are_read():
    # The base64 of these bytes contains the characters in which the alphabets differ.
    image = next(i for i in map(jpeg, range(500)) if {"+", "/"} <= set(base64.b64encode(i).decode()))
    camel = body(image)
    snake = json.loads(
        json.dumps(camel).replace("inlineData", "inline_data").replace("mimeType", "mime_type")
    )
    snake["generation_config"] = {"response_json_schema": SCHEMA}
    del snake["generationConfig"]
    part = snake["contents"][0]["parts"][1]["inline_data"]
    part["data"] = base64.urlsafe_b64encode(image).decode().rstrip("=")
    with gemini_server() as server:
        answers = [people(generate(server, content)[1]) for content in (camel, snake)]
        assert {seen.images for seen in server.journal} == {(hashlib.sha256(image).hexdigest(),)}
    assert answers[0] == answers[1]


def test_tokens_of_2_5_are_those_of_the_documentation():
    text = {"contents": [{"parts": [{"text": "x" * 400}]}]}
    with gemini_server(models=(MODEL_2_5,)) as server:
        path = f"/v1beta/models/{MODEL_2_5}:countTokens"
        assert post(server, path, text)[1] == {"totalTokens": 100}
        small = post(server, path, body(jpeg(1, 384, 384), schema=None))[1]["totalTokens"]
        large = post(server, path, body(jpeg(1, 960, 540), schema=None))[1]["totalTokens"]
        assert server.counted == []
    # In the documentation's example, 960 x 540 pixels are six tiles of 360. Eight characters of text are two
    # tokens.
    assert (small, large) == (258 + 2, 6 * 258 + 2)


@pytest.mark.parametrize(
    ("resolution", "tokens"), [(None, 1120), ("LOW", 280), ("MEDIUM", 560), ("HIGH", 1120)]
)
def test_an_image_on_3_x_counts_by_its_media_resolution(resolution, tokens):
    content = body(jpeg(1, 960, 540), schema=None)
    if resolution:
        content["generationConfig"] = {"mediaResolution": f"MEDIA_RESOLUTION_{resolution}"}
    with gemini_server() as server:
        found = post(server, f"/v1beta/models/{MODEL}:countTokens", content)[1]
    assert found == {"totalTokens": tokens + 2}


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (MODEL, {"thinkingConfig": {"thinkingBudget": 0}}, "Budget 0 is invalid"),
        (MODEL, {"thinkingConfig": {"thinkingBudget": 9, "thinkingLevel": "LOW"}}, "only one of thinking"),
        (MODEL, {"presencePenalty": 1}, "Penalty is not enabled"),
        (MODEL, {"maxOutputTokens": 70_000}, "max_output_tokens"),
        (MODEL, {"thinkingConfig": {"thinkingLevel": "NONE"}}, "Invalid thinking level"),
        ("gemini-3.1-pro", {"thinkingConfig": {"thinkingLevel": "MINIMAL"}}, "not supported"),
        (MODEL_2_5, {"thinkingConfig": {"thinkingLevel": "LOW"}}, "level is not supported"),
        (MODEL_2_5, {"thinkingConfig": {"thinkingBudget": 30_000}}, "budget 30000 is invalid"),
        ("gemini-2.5-pro", {"thinkingConfig": {"thinkingBudget": 0}}, "Budget 0 is invalid"),
        (MODEL, {"thinkingConfig": {"thinkingLevel": "MINIMAL"}, "temperature": 1}, None),
        (MODEL_2_5, {"thinkingConfig": {"thinkingBudget": 0}, "presencePenalty": 1}, None),
    ],
)
def test_each_family_refuses_what_it_does_not_take(model, config, message):
    content = body(jpeg(1), schema=None)
    content["generationConfig"] = config
    with gemini_server(models=(model,)) as server:
        status, answer, _ = post(server, f"/v1beta/models/{model}:generateContent", content)
        assert len(server.counted) == 1
    assert status == (200 if message is None else 400)
    assert message is None or message in answer["error"]["message"]


def test_requests_a_minute_are_a_sliding_window():
    clock = ServerClock(start=0, speed=0)
    with gemini_server(requests_per_minute=2, clock=clock) as server:
        assert generate(server)[0] == 200
        clock.advance(40)
        assert generate(server)[0] == 200
        clock.advance(19.5)
        status, refused = generate(server)
        clock.advance(0.5)
        assert generate(server)[0] == 200
        assert generate(server)[0] == 429
        assert len(server.counted) == 3
    assert status == 429
    failure, retry = refused["error"]["details"]
    assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.5s"}
    (violation,) = failure["violations"]
    assert violation["quotaId"] == "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    assert violation["quotaValue"] == "2"


def test_input_tokens_a_minute_are_a_sliding_window():
    clock = ServerClock(start=0, speed=0)
    content = body(jpeg(1))
    with gemini_server() as server:
        generate(server, content)
        tokens = server.journal[0].tokens
    with gemini_server(tokens_per_minute=2 * tokens, clock=clock) as server:
        assert [generate(server, content)[0] for _ in range(3)] == [200, 200, 429]
        _, refused = generate(server, content)
        clock.advance(60)
        assert generate(server, content)[0] == 200
    details = {d["@type"].rpartition(".")[2]: d for d in refused["error"]["details"]}
    assert "InputTokens" in details["QuotaFailure"]["violations"][0]["quotaId"]
    assert details["RetryInfo"]["retryDelay"] == "60s"


@pytest.mark.parametrize(
    ("day", "offset_h"), [("2026-11-23", 8), ("2026-03-08", 7), ("2026-11-01", 8), ("2026-07-01", 7)]
)
def test_requests_a_day_begin_again_at_midnight_in_california(day, offset_h):
    """This also holds on the days on which the clocks change there."""
    year, month, date = map(int, day.split("-"))
    midnight = datetime(year, month, date, tzinfo=UTC).timestamp() + 86_400 + offset_h * 3600
    clock = ServerClock(start=midnight - 10, speed=0)
    with gemini_server(requests_per_day=1, clock=clock) as server:
        assert generate(server)[0] == 200
        clock.advance(9.5)
        status, refused = generate(server)
        clock.advance(0.5)
        assert generate(server)[0] == 200
        assert server.counted_by_day()[day] == 1
        assert len(server.counted_by_day()) == 2
    assert status == 429
    assert "PerDay" in refused["error"]["details"][0]["violations"][0]["quotaId"]


def test_each_model_has_a_quota_that_all_keys_share():
    models = (MODEL, "gemini-2.5-pro")
    with gemini_server(requests_per_minute=1, keys=("one", "two"), models=models) as server:
        paths = [f"/v1beta/models/{model}:generateContent" for model in models]
        found = [post(server, path, body(jpeg(1)), "one")[0] for path in paths]
        again = [post(server, path, body(jpeg(1)), "two")[0] for path in paths]
    assert found == [200] * 2
    assert again == [429] * 2


def test_the_window_forgets_what_is_older_than_a_minute():
    quota = Quota(Limits(requests_per_minute=1))
    for minute in range(1000):
        assert quota.violations(minute * 60.0, 1) == []
        quota.count(minute * 60.0, 1)
    assert len(quota.window) == 1


def test_a_clock_runs_at_its_speed_and_can_be_set():
    clock = ServerClock(start=1000, speed=0)
    assert clock.now() == clock.now() == 1000
    clock.advance(5)
    clock.set(speed=1e6)
    assert clock.now() > 1005
    clock.set(start=10, speed=0)
    assert clock.now() == 10


def test_faults_strike_in_order_and_only_where_they_fit():
    image = hashlib.sha256(jpeg(7)).hexdigest()
    faults = [
        Fault("unavailable", image_sha256=image),
        Fault("internal", min_crops=2),
        Fault("safety", times=2),
    ]
    with gemini_server(faults=faults) as server:
        found = [
            generate(server, content)[0]
            for content in (
                body(jpeg(1)),
                body(jpeg(1), jpeg(2)),
                body(jpeg(7)),
                body(jpeg(7)),
                body(jpeg(7)),
            )
        ]
        assert [seen.fault for seen in server.journal] == [
            "safety",
            "internal",
            "unavailable",
            "safety",
            None,
        ]
        assert server.script.left == 0
    assert found == [200, 500, 503, 200, 200]


def test_a_fault_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no fault 'safty'"):
        Fault("safty")


def test_failed_requests_count_against_the_quota_and_refused_ones_do_not():
    faults = [Fault("internal"), Fault("rate_minute"), Fault("invalid_key")]
    with gemini_server(faults=faults, requests_per_day=2) as server:
        assert [generate(server)[0] for _ in range(4)] == [500, 429, 400, 429]
        assert [seen.counted for seen in server.journal] == [True, False, True, False]


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        (f"/v1beta/models/{MODEL}:generateContent", "wrong", 400),
        ("/v1beta/models/gemini-0:generateContent", KEY, 404),
    ],
)
def test_unknown_keys_and_models_are_refused_before_the_quota(path, key, status):
    with gemini_server() as server:
        found, answer, _ = post(server, path, body(jpeg(1)), key)
        assert server.journal == []
    assert found == status
    assert answer["error"]["code"] == status


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"contents": []}, "contents is not specified"),
        (body(b"not an image"), "process input image"),
        ({**body(jpeg(1)), "generationConfig": {"topX": 1}}, 'Unknown name "topX"'),
        (body(jpeg(1), schema={"anyOf": [{"type": "string", "maxLength": 3}]}), "keyword maxLength"),
    ],
)
def test_what_google_refuses_is_refused(content, message):
    with gemini_server() as server:
        status, answer = generate(server, content)
    assert status == 400
    assert message in answer["error"]["message"]


def test_a_process_is_driven_over_http():
    command = [
        sys.executable,
        "-m",
        "tests.servers.gemini_server",
        "--rpd",
        "1",
        "--speed",
        "0",
        "--start",
        "0",
    ]
    with subprocess.Popen(command, cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = re.match(r"gemini\.base_url=(\S+) GEMINI_API_KEY=(\S+)\n", process.stdout.readline())
        assert said
        server = GeminiServer(Limits(), ServerClock(), [])
        server.base_url = said.group(1)
        assert generate(server)[0] == 200
        assert generate(server)[0] == 429
        assert post(server, "/_server/clock", {"advance": 86_400})[1]["now"] == 86_400
        assert post(server, "/_server/faults", [{"kind": "internal"}])[1] == {"left": 1}
        assert generate(server)[0] == 500
        with urllib.request.urlopen(f"{server.base_url}/_server/journal", timeout=30) as answer:
            journal = json.load(answer)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert [(seen["at"], seen["status"], seen["counted"]) for seen in journal] == [
        (0, 200, True),
        (0, 429, False),
        (86_400, 500, True),
    ]
    assert journal[0]["ids"] == ["p0"]
    assert journal[0]["images"] == [hashlib.sha256(jpeg(1)).hexdigest()]
    assert KEY not in str(journal)
