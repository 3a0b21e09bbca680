"""Whatever a Gemini server answers becomes an outcome for each crop, or one of three errors."""

from __future__ import annotations

import asyncio
import hashlib
import pickle

import pytest

from actors.errors import ConfigError, GeminiRateLimitedError, GeminiRefusedError, GeminiUnavailableError
from actors.gemini.api.answer import is_other_model
from actors.gemini.api.client import GeminiClient
from actors.gemini.api.packing import Crop, halves, pack, request_of
from actors.gemini.api.tokens import TokenUsage
from tests.servers.gemini_faults import ERRORS, KINDS, SPOILED, Fault
from tests.servers.gemini_server import MODEL, gemini_server
from tests.support.gemini_asking import SCHEMA, asking, crops, packed, single

OUTCOMES = {
    "truncated_json": "invalid",
    "prose": "invalid",
    "wrong_ids": "invalid",
    "missing_item": "invalid",
    "doubled_item": "invalid",
    "foreign_value": "invalid",
    "blocked_prompt": "blocked",
    "safety": "blocked",
    "recitation": "blocked",
    "max_tokens": "truncated",
    "continuation": "truncated",
    "malformed": "error",
    "empty_candidates": "error",
    "no_parts": "error",
    "bad_image": "error",
}
"""For each fault, the outcome of a crop that is sent alone."""

HARMLESS = ("fenced", "other_model", "thought", "reversed")
"""Faults that leave a usable answer."""

RATE_LIMITS = {
    "rate_minute": (False, 20.0, "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
    "rate_tokens": (False, 20.0, "GenerateContentInputTokensPerModelPerMinute-FreeTier"),
    "rate_day": (True, 20.0, "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    "rate_both": (True, 20.0, "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    "rate_bare": (False, None, None),
    "rate_header": (False, 20.0, None),
    "rate_in_200": (False, 20.0, "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
}
TRANSIENT = (
    "internal",
    "unavailable",
    "bad_gateway",
    "error_in_200",
    "not_json",
    "json_list",
    "json_true",
    "json_number",
)
REFUSED = {
    "invalid_key": "GEMINI_API_KEY",
    "unauthorized": "GEMINI_API_KEY",
    "gateway_unauthorized": "GEMINI_API_KEY",
    "forbidden": "GEMINI_API_KEY",
    "gateway_not_found": "gemini.model",
    "unknown_model": "gemini.model",
    "location": "region",
    "bad_field": "change gemini.thinking_budget",
    "no_quota": "gemini.model",
}
"""For each fault, a word that the error's remedy contains."""


def ask(fault: str | None, request, **changes):
    """Return the answer of a server with at most one fault, and the server with its journal."""
    faults = [Fault(fault)] if fault else []
    served = {"models": (changes["model"],)} if "model" in changes else {}
    with gemini_server(faults=faults, **served) as server:
        return asking(server.base_url, server.key, lambda c: c.ask(request), **changes), server


def error_of(fault: Fault, request, **changes):
    """Return the error that a fault causes, and the server with its journal."""
    with gemini_server(faults=[fault]) as server:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            asking(server.base_url, server.key, lambda c: c.ask(request), **changes)
        return raised.value, server


def test_every_fault_of_the_server_is_tested():
    batch_only = {"line_error", "line_missing", "job_failed", "job_expired", "job_stuck"}
    tested = {*OUTCOMES, *HARMLESS, *RATE_LIMITS, *TRANSIENT, *REFUSED, "hang", "drop", "broken_rule"}
    assert tested == KINDS - batch_only
    assert {*ERRORS, *SPOILED} <= tested


def test_each_crop_gets_its_answer_in_one_request():
    request = packed(8)
    answer, server = ask(None, request)
    assert answer.split_reason is None
    assert list(answer.annotations) == [crop.key for crop in request.crops]
    assert {annotation.status for annotation in answer.annotations.values()} == {"ok"}
    for annotation in answer.annotations.values():
        assert SCHEMA.parse(SCHEMA.nest(annotation.values)) == annotation.values
    assert len({str(annotation.values) for annotation in answer.annotations.values()}) > 1
    (seen,) = server.journal
    assert seen.images == tuple(hashlib.sha256(crop.jpeg).hexdigest() for crop in request.crops)
    assert seen.ids == request.ids
    assert answer.usage.input == seen.tokens
    assert answer.usage.output > 0
    assert (answer.model_version, answer.response_id) == (MODEL, "response-1")


def test_a_crop_gets_the_same_answer_alone_and_in_any_company():
    together, _ = ask(None, packed(8))
    for crop in crops(8)[:3]:
        alone, _ = ask(None, request_of([crop], seed=5))
        assert alone.annotations[crop.key] == together.annotations[crop.key]


@pytest.mark.parametrize(("fault", "status"), OUTCOMES.items())
def test_trouble_with_a_single_crop_is_its_outcome(fault, status):
    answer, server = ask(fault, single())
    (annotation,) = answer.annotations.values()
    assert annotation.status == status
    assert annotation.reason
    assert not annotation.values
    assert answer.split_reason is None
    assert len(server.journal) == 1


PARTLY = {"wrong_ids": 0, "missing_item": 3, "doubled_item": 0}
"""For each fault that spoils one of several answers, the place of its crop among four."""


@pytest.mark.parametrize(("fault", "place"), PARTLY.items())
def test_an_id_that_is_missing_or_doubled_spoils_its_crop_alone(fault, place):
    request = packed(4)
    good, _ = ask(None, request)
    answer, server = ask(fault, request)
    spoiled = request.crops[place].key
    assert answer.split_reason is None
    assert answer.ask_again == (spoiled,)
    assert answer.annotations == {k: a for k, a in good.annotations.items() if k != spoiled}
    assert request.part(answer.ask_again).ids == (request.ids[place],)
    assert len(server.journal) == 1


@pytest.mark.parametrize("fault", sorted(OUTCOMES.keys() - {"foreign_value", *PARTLY}))
def test_trouble_with_several_crops_asks_for_halves(fault):
    answer, server = ask(fault, packed(4))
    assert answer.annotations == {}
    assert answer.split_reason
    assert len(server.journal) == 1


def test_a_value_outside_the_schema_spoils_one_crop_only():
    request = packed(4)
    answer, _ = ask("foreign_value", request)
    assert [a.status for a in answer.annotations.values()] == ["invalid", "ok", "ok", "ok"]
    reason = answer.annotations[request.crops[0].key].reason
    assert reason is not None
    assert reason.startswith("gender: ")


@pytest.mark.parametrize("fault", HARMLESS)
def test_what_can_be_used_is_used(fault):
    good, _ = ask(None, packed(4))
    answer, server = ask(fault, packed(4))
    assert answer.annotations == good.annotations
    assert len(server.journal) == 1


@pytest.mark.parametrize("fault", ["safety", "max_tokens", "truncated_json", "empty_candidates"])
def test_halving_finds_the_one_crop_that_spoils_the_others(fault):
    request = packed(8)
    bad = request.crops[5]
    poison = Fault(fault, times=None, image_sha256=hashlib.sha256(bad.jpeg).hexdigest())

    async def until_answered(opened: GeminiClient):
        waiting, found = [request], {}
        while waiting:
            asked = waiting.pop(0)
            answer = await opened.ask(asked)
            if answer.split_reason:
                waiting += halves(asked)
            found |= answer.annotations
        return found

    with gemini_server(faults=[poison]) as server:
        found = asking(server.base_url, server.key, until_answered)
    assert sorted(found) == sorted(crop.key for crop in request.crops)
    assert [key for key, annotation in found.items() if annotation.status != "ok"] == [bad.key]
    # The requests have 8, 4 + 4, 2 + 2 and 1 + 1 crops: only requests with the bad crop are halved.
    assert len(server.journal) == 7


@pytest.mark.parametrize(("fault", "expected"), RATE_LIMITS.items())
def test_a_429_says_which_quota_is_spent_and_how_long(fault, expected):
    error, server = error_of(Fault(fault), packed(2))
    assert isinstance(error, GeminiRateLimitedError)
    assert (error.per_day, error.retry_after_s, error.quota_id) == expected
    assert len(server.journal) == 1


def test_the_servers_own_quota_is_told_likewise():
    async def twice(opened: GeminiClient):
        await opened.ask(single())
        await opened.ask(single())

    with gemini_server(requests_per_minute=1) as server:
        with pytest.raises(GeminiRateLimitedError) as raised:
            asking(server.base_url, server.key, twice)
        assert [seen.status for seen in server.journal] == [200, 429]
    assert not raised.value.per_day
    assert raised.value.retry_after_s is not None
    assert 0 < raised.value.retry_after_s <= 60


@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_may_pass_is_transient_and_not_retried_here(fault):
    error, server = error_of(Fault(fault), packed(2))
    assert isinstance(error, GeminiUnavailableError)
    assert MODEL in str(error)
    assert len(server.journal) == 1


def test_an_overloaded_server_says_how_long_to_wait():
    error, _ = error_of(Fault("unavailable", retry_after_s=7), single())
    assert isinstance(error, GeminiUnavailableError)
    assert error.retry_after_s == 7.0


def test_any_number_of_requests_may_be_under_way_at_once():
    async def together(opened: GeminiClient):
        return await asyncio.gather(*(opened.ask(request) for request in pack(crops(48), 3, seed=0)))

    with gemini_server() as server:
        answers = asking(server.base_url, server.key, together)
        assert len(server.journal) == 16
    found = {key: annotation for answer in answers for key, annotation in answer.annotations.items()}
    assert sorted(found) == sorted(crop.key for crop in crops(48))
    assert {annotation.status for annotation in found.values()} == {"ok"}
    # Answers are pickled when they go to another process.
    assert pickle.loads(pickle.dumps(answers)) == answers


def test_a_server_that_hangs_is_given_up():
    error, server = error_of(Fault("hang"), single(), timeout_s=0.5)
    assert isinstance(error, GeminiUnavailableError)
    assert "0.5 s" in str(error)
    assert len(server.journal) == 1


def test_a_dropped_connection_is_transient_and_asked_once():
    error, server = error_of(Fault("drop"), single())
    assert isinstance(error, GeminiUnavailableError)
    assert server.base_url in str(error)
    assert len(server.journal) == 1


def test_a_connection_that_is_dropped_when_used_again_is_not_asked_twice_either():
    """aiohttp repeats a GET on a connection that was kept open, but a paid request must not be repeated."""

    async def thrice(opened: GeminiClient):
        await opened.ask(single())
        with pytest.raises(GeminiUnavailableError):
            await opened.ask(packed(2))
        await opened.ask(single())

    with gemini_server(faults=[Fault("drop", min_crops=2)]) as server:
        asking(server.base_url, server.key, thrice)
        assert [len(seen.images) for seen in server.journal] == [1, 2, 1]


def test_a_server_that_is_not_there_is_transient():
    with gemini_server() as server:
        pass
    with pytest.raises(GeminiUnavailableError, match=server.base_url):
        asking(server.base_url, server.key, lambda c: c.ask(single()))


@pytest.mark.parametrize(("fault", "remedy"), REFUSED.items())
def test_what_no_request_would_survive_stops_at_once_with_the_remedy(fault, remedy):
    error, server = error_of(Fault(fault), packed(2))
    assert isinstance(error, GeminiRefusedError)
    assert isinstance(error, ConfigError)
    assert remedy in str(error)
    assert error.code is not None
    assert len(server.journal) == 1


def test_requests_that_are_all_refused_stop_in_the_end():
    async def many(opened: GeminiClient):
        for crop in crops(50):
            answer = await opened.ask(request_of([crop], seed=0))
            assert [a.status for a in answer.annotations.values()] == ["error"]

    with gemini_server(faults=[Fault("bad_image", times=None)]) as server:
        with pytest.raises(GeminiRefusedError, match="gemini section"):
            asking(server.base_url, server.key, many)
        assert len(server.journal) == 12


def test_one_answer_between_shows_that_the_settings_are_right():
    async def many(opened: GeminiClient):
        return [await opened.ask(request_of([crop], seed=0)) for crop in crops(22)]

    faults = [Fault("bad_image", times=10), Fault("fenced"), Fault("bad_image", times=11)]
    with gemini_server(faults=faults) as server:
        answers = asking(server.base_url, server.key, many)
    statuses = [a.status for answer in answers for a in answer.annotations.values()]
    assert statuses == ["error"] * 10 + ["ok"] + ["error"] * 11


def test_a_crop_that_is_no_image_is_an_error_of_its_own():
    answer, _ = ask(None, request_of([Crop("broken", b"\xff\xd8 not a JPEG")], seed=0))
    assert answer.annotations["broken"].status == "error"


def test_errors_survive_the_way_to_another_process():
    for error in (
        GeminiRateLimitedError("spent", True, 3.5, "PerDay"),
        GeminiUnavailableError("later", 2.0),
        GeminiRefusedError("no", 403),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert copy.__dict__ == error.__dict__


def test_check_accepts_a_good_key_and_model_without_spending_quota():
    with gemini_server(requests_per_day=0) as server:
        asking(server.base_url, server.key, lambda c: c.check())
        with pytest.raises(GeminiRefusedError, match="GEMINI_API_KEY"):
            asking(server.base_url, "wrong", lambda c: c.check())
        with pytest.raises(GeminiRefusedError, match=r"gemini\.model"):
            asking(server.base_url, server.key, lambda c: c.check(), model="gemini-0")
        assert server.counted == []


def test_another_model_is_warned_of_once(caplog):
    async def twice(opened: GeminiClient):
        return [await opened.ask(single()) for _ in range(2)]

    with gemini_server(faults=[Fault("other_model", times=None)]) as server:
        answers = asking(server.base_url, server.key, twice)
    assert [answer.model_version for answer in answers] == ["gemini-3.8-flash"] * 2
    warnings = [r.getMessage() for r in caplog.records if r.name == "actors.gemini.api.client"]
    assert len(warnings) == 1
    assert MODEL in warnings[0]
    assert "gemini-3.8-flash" in warnings[0]


@pytest.mark.parametrize(
    ("asked", "answered", "other"),
    [
        ("gemini-2.5-flash", "gemini-2.5-flash", False),
        ("gemini-2.5-flash", "models/gemini-2.5-flash-001", False),
        ("gemini-2.5-flash", "gemini-2.5-flash-preview-09-2025", False),
        ("gemini-2.5-flash", "gemini-2.5-flash-lite", True),
        ("gemini-2.5-flash", "gemini-3.5-flash-lite", True),
        ("gemini-flash-latest", "gemini-3.5-flash", False),
        ("gemini-2.5-flash", None, False),
    ],
)
def test_a_dated_version_is_the_model_itself(asked, answered, other):
    assert is_other_model(asked, answered) is other


def test_thoughts_are_counted_and_not_read():
    answer, _ = ask("thought", single())
    assert answer.usage.thinking == 7
    assert answer.usage + TokenUsage(1, 2, 3) == TokenUsage(
        answer.usage.input + 1, answer.usage.output + 2, 10
    )


def test_the_length_of_an_answer_is_limited_by_person():
    """The server's answers with a reason are longer than 64 tokens and shorter than 512.

    A model of 2.5 can be told not to think; others get tokens for it in addition.
    """
    cut, _ = ask(None, single(), reasoning=True, answer_tokens=64, model="gemini-2.5-flash")
    assert [a.status for a in cut.annotations.values()] == ["truncated"]
    assert cut.usage.output == 64
    whole, _ = ask(None, packed(32), reasoning=True)
    assert {a.status for a in whole.annotations.values()} == {"ok"}


def test_a_blocked_request_still_counts_its_tokens():
    answer, server = ask("blocked_prompt", packed(2))
    assert answer.usage == TokenUsage(input=server.journal[0].tokens)
