"""Responses of model servers that are no good answers, whole as they are sent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.corpus.answers import ANSWERS, GOOD

SURROGATE = "\\ud800"
"""Half of a surrogate pair, as JSON may have it. No table can hold it as text."""
_MANY = 2**20


@dataclass(frozen=True)
class BadResponse:
    """A response, or a line of a batch job's answers.

    Attributes:
        name: Name of the kind.
        body: The bytes. `@ID@` is the id that the answer has to echo, and `@KEY@` that of the line.
        status: The outcome of its crop.
        says: A part of the reason of that outcome.
    """

    name: str
    body: bytes
    status: str
    says: str = ""

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        return f"its crop is `{self.status}`" + (f": {self.says}" if self.says else "")


def _persons(answer: bytes) -> str:
    """Return the text of an answer, with the id if it is an object, as a model is told to echo it."""
    text = answer.decode()
    if not (text.startswith("{") and text.endswith("}")):
        return text
    return '{"persons": [{"image_id": "@ID@", ' + text[1:] + "]}"


def _candidate(text: str, **more: Any) -> dict[str, Any]:
    return {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP", **more}


def _said(text: str, **more: Any) -> bytes:
    return json.dumps({"candidates": [_candidate(text)], **more}).encode()


_GOOD = _persons(json.dumps(GOOD).encode())


def _with_text(old: str, new: str) -> bytes:
    """Return a good response with a part of it replaced as it stands in JSON."""
    changed = _said(_GOOD, modelVersion="V", responseId="R").decode().replace(old, new)
    return changed.encode()


def _of_texts() -> tuple[BadResponse, ...]:
    found = []
    for kind in ANSWERS:
        status = "ok" if kind.says is None else "invalid"
        says = (kind.says or "").removeprefix("not JSON")
        found.append(BadResponse(kind.name, _said(_persons(kind.content)), status, says))
    return tuple(found)


def _response(name: str, body: bytes | dict[str, Any], status: str, says: str = "") -> BadResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return BadResponse(f"response of Gemini: {name}", content, status, says)


GEMINI_TEXTS = _of_texts()
"""The answers of `ANSWERS`, as Gemini sends them."""

GEMINI_RESPONSES = (
    _response("version with half of a surrogate pair", _with_text('"V"', f'"{SURROGATE}"'), "ok"),
    _response("id with half of a surrogate pair", _with_text('"R"', f'"{SURROGATE}"'), "ok"),
    _response("version of a megabyte", _with_text('"V"', f'"{"v" * _MANY}"'), "ok"),
    _response("id of a megabyte", _with_text('"R"', f'"{"r" * _MANY}"'), "ok"),
    _response("version that is a list", _with_text('"V"', '["a"]'), "ok"),
    _response(
        "reasoning with half of a surrogate pair",
        _said(_persons(json.dumps(GOOD | {"reasoning": "x"}).encode().replace(b'"x"', b'"\\ud800"'))),
        "ok",
    ),
    _response(
        "key with half of a surrogate pair",
        _said(_persons(json.dumps(GOOD | {"x": 1}).encode().replace(b'"x"', b'"\\ud800"'))),
        "invalid",
    ),
    _response("key of a megabyte", _said(_persons(json.dumps(GOOD | {"k" * _MANY: 1}).encode())), "invalid"),
    _response(
        "reasoning with a zero byte", _said(_persons(json.dumps(GOOD | {"reasoning": "a\0b"}).encode())), "ok"
    ),
    _response(
        "reasoning of a megabyte",
        _said(_persons(json.dumps(GOOD | {"reasoning": "r" * _MANY}).encode())),
        "ok",
    ),
    _response("id of another crop", _said(_GOOD.replace("@ID@", "zzzz")), "invalid", "echo"),
    _response(
        "id of a megabyte in place of the crop's",
        _said(_GOOD.replace("@ID@", "z" * _MANY)),
        "invalid",
        "echo",
    ),
    _response(
        "the crop's id twice", _said(_GOOD[:-2] + ", " + _GOOD[len('{"persons": [') :]), "invalid", "echo"
    ),
    _response(
        "10,000 answers", _said('{"persons": [' + ", ".join(["{}"] * 10_000) + "]}"), "invalid", "echo"
    ),
    _response("answers that are no objects", _said('{"persons": [1, null, "x", []]}'), "invalid", "no list"),
    _response("an empty text", _said(""), "error", "empty"),
    _response("a text that is a number", {"candidates": [{"content": {"parts": [{"text": 5}]}}]}, "invalid"),
    _response("a part that is null", {"candidates": [{"content": {"parts": [None]}}]}, "error", "empty"),
    _response("parts that are an object", {"candidates": [{"content": {"parts": {}}}]}, "error", "empty"),
    _response("candidates that are an object", {"candidates": {}}, "error", "no candidates"),
    _response("a candidate that is null", {"candidates": [None]}, "error", "no candidates"),
    _response("an empty object", {}, "error", "no candidates"),
    _response("a finish that is a list", {"candidates": [{"finishReason": ["STOP"]}]}, "error", "stopped"),
    _response("a finish of a megabyte", {"candidates": [{"finishReason": "F" * _MANY}]}, "error", "stopped"),
    _response(
        "a finish with half of a surrogate pair",
        b'{"candidates": [{"finishReason": "\\ud800"}]}',
        "error",
        "stopped",
    ),
    _response(
        "a block of a megabyte", {"promptFeedback": {"blockReason": "B" * _MANY}}, "blocked", "blocked"
    ),
    _response(
        "a block that is an object", {"promptFeedback": {"blockReason": {"a": [1]}}}, "blocked", "blocked"
    ),
    _response("feedback that is a list", {"promptFeedback": [1], "candidates": []}, "error", "no candidates"),
    _response(
        "more tokens than a number holds",
        _said(_GOOD, usageMetadata={"promptTokenCount": 10**30, "candidatesTokenCount": 10**400}),
        "ok",
    ),
    _response(
        "tokens that are text",
        _said(_GOOD, usageMetadata={"promptTokenCount": "9", "candidatesTokenCount": [1]}),
        "ok",
    ),
    _response(
        "negative tokens",
        _said(_GOOD, usageMetadata={"promptTokenCount": -5, "candidatesTokenCount": True}),
        "ok",
    ),
    _response("usage that is a list", _said(_GOOD, usageMetadata=[1, 2]), "ok"),
)


GEMINI_ERRORS = (
    _response("nothing", b"", "error"),
    _response("a page of HTML", b"<html>", "error"),
    _response("bytes that aren't UTF-8", b"\xff\xfe\xff", "error"),
    _response("100,000 lists in lists", b"[" * 100_000 + b"]" * 100_000, "error"),
    _response(
        "an object of 100,000 lists in lists", b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "error"
    ),
    _response("a number of 5,000 digits", b'{"x": ' + b"9" * 5000 + b"}", "error"),
    _response("a list", b"[]", "error"),
    _response("an error that is a number", {"error": 3}, "error"),
    _response("an error of lists", {"error": [[]]}, "error"),
    _response("an error with a huge code", {"error": {"code": 10**30}}, "error"),
    _response("an error with a negative code", {"error": {"code": -1}}, "error"),
    _response(
        "an error with a message of a megabyte", {"error": {"code": 503, "message": "m" * _MANY}}, "error"
    ),
    _response(
        "an error with a status of a megabyte", {"error": {"code": 503, "status": "s" * _MANY}}, "error"
    ),
    _response(
        "an error with half of a surrogate pair",
        b'{"error": {"code": 503, "message": "\\ud800", "status": "\\ud800"}}',
        "error",
    ),
    _response(
        "a refusal for a reason that is a list",
        {"error": {"code": 400, "details": [{"@type": "a.ErrorInfo", "reason": ["x"]}]}},
        "error",
    ),
)
"""Responses that are errors of the server, or as good as one."""


def _line(name: str, line: bytes, status: str, says: str = "") -> BadResponse:
    return BadResponse(f"line of a batch job: {name}", line, status, says)


def _error(**error: Any) -> bytes:
    return b'{"key": "@KEY@", "error": ' + json.dumps(error).encode() + b"}"


BATCH_LINES = (
    _line("half of JSON", b'{"key": "@KEY@", "resp', "pending"),
    _line("not UTF-8", b'{"key": "@KEY@", "response": "\xff\xfe"}', "pending"),
    _line(
        "100,000 lists in lists",
        b'{"key": "@KEY@", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "pending",
    ),
    _line("a list", b'["@KEY@"]', "pending"),
    _line("a key that is a list", b'{"key": ["@KEY@"], "response": {}}', "pending"),
    _line("another key", b'{"key": "another", "response": {}}', "pending"),
    _line("no response", b'{"key": "@KEY@"}', "pending"),
    _line("a response that is text", b'{"key": "@KEY@", "response": "yes"}', "pending"),
    _line("8 MiB in one line", b'{"key": "@KEY@", "x": "' + b"x" * 2**23 + b'"}', "pending"),
    _line("an error whose code is a list", _error(code=[400], message="m"), "pending"),
    _line("an error of a megabyte", _error(code=13, message="m" * _MANY), "pending"),
    _line("an error that is text", b'{"key": "@KEY@", "error": "no"}', "pending"),
    _line("a refusal of a megabyte", _error(code=3, message="m" * _MANY), "error", "mmm"),
    _line(
        "the same line twice",
        b'{"key": "@KEY@", "response": {}}\n{"key": "@KEY@", "response": {}}',
        "error",
        "no candidates",
    ),
)


def _chat(name: str, body: bytes | dict[str, Any], status: str, says: str = "") -> BadResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return BadResponse(f"chat completion: {name}", content, status, says)


def _choice(message: Any, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": "stop", **more}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def _message(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def _likely(logprob: float, **token: Any) -> dict[str, Any]:
    """Return a good answer, each of whose characters is a token with this logarithm of its probability."""
    text = json.dumps(GOOD)
    tokens = []
    for character in text:
        own = {"token": character, "logprob": logprob, "bytes": None, **token}
        other = {"token": "f", "logprob": logprob, "bytes": None}
        tokens.append({**own, "top_logprobs": [own, other]})
    return _choice(_message(text), logprobs={"content": tokens})


_FAILS = "fails on this crop"

CHAT_TEXTS = tuple(
    BadResponse(
        kind.name.replace("answer:", "chat completion:"),
        json.dumps(_choice(_message(kind.content.decode()))).encode(),
        "ok" if kind.says is None else "invalid",
        (kind.says or "").removeprefix("not JSON"),
    )
    for kind in ANSWERS
)
"""The answers of `ANSWERS`, as a server of OpenAI's API sends them."""

CHAT_COMPLETIONS = (
    _chat("nothing", b"", "error", _FAILS),
    _chat("a page of HTML", b"<html>", "error", _FAILS),
    _chat("bytes that aren't UTF-8", b"\xff\xfe\xff", "error", _FAILS),
    _chat("100,000 lists in lists as the response", b"[" * 100_000 + b"]" * 100_000, "error", _FAILS),
    _chat("a number of 5,000 digits as the response", b"9" * 5000, "error", _FAILS),
    _chat("choices that are a number", {"choices": 3}, "error", _FAILS),
    _chat("no choices", {"choices": []}, "error", _FAILS),
    _chat("a choice that is null", {"choices": [None]}, "error", _FAILS),
    _chat("a message that is null", _choice(None), "error", _FAILS),
    _chat("content that is a list", _choice(_message([GOOD])), "error", _FAILS),
    _chat("content that is null", _choice(_message(None)), "invalid", "not a valid answer"),
    _chat("an error with status 200", {"error": {"message": "no", "code": 500}}, "error", _FAILS),
    _chat("a refusal of a megabyte", _choice(_message(None, refusal="r" * _MANY)), "blocked", "rrr"),
    _chat(
        "a refusal with half of a surrogate pair",
        json.dumps(_choice(_message(None, refusal="R"))).replace('"R"', '"\\ud800"').encode(),
        "blocked",
        "\\ud800",
    ),
    _chat(
        "a key with half of a surrogate pair",
        _choice(_message(json.dumps(GOOD | {"\ud800": 1}))),
        "invalid",
    ),
    _chat(
        "a key of a megabyte as the answer's",
        _choice(_message(json.dumps(GOOD | {"k" * _MANY: 1}))),
        "invalid",
    ),
    _chat(
        "reasoning with half of a surrogate pair",
        _choice(_message(json.dumps(GOOD | {"reasoning": "\ud800"}))),
        "invalid",
    ),
    _chat("an answer that is cut", _choice(_message("{"), finish_reason="length"), "truncated", "longer"),
    _chat("probabilities of more than 1", _likely(1000.0), "ok"),
    _chat("probabilities that are NaN", _likely(float("nan")), "ok"),
    _chat("probabilities that are infinite", _likely(float("inf")), "ok"),
    _chat("probabilities of 0", _likely(float("-inf")), "ok"),
    _chat("tokens of bytes that are none", _likely(-0.1, bytes=[300]), "error", _FAILS),
    _chat("logprobs that are a list", _choice(_message(json.dumps(GOOD)), logprobs=[1]), "error", _FAILS),
)
