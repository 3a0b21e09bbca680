"""A server that speaks OpenAI's chat completions on loopback, with pictures and schemas, and fails as told.

Answers depend only on the picture's bytes and the schema. Each token of an answer is a few characters long,
and the values in it have alternatives with known probabilities. In a test, the server runs in a thread:

    with chat_server() as server:
        server.bad_crops[sha256] = "500"
        server.is_down = True
        ... server.base_url ... server.asked
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, Literal

from aiohttp import web
from PIL import Image

from tests.servers.gemini_answers import answer_value

MODEL = "tiny-vlm"
CHOSEN, OTHERS = 0.7, 0.2
"""Probability of the token that begins a value, and that of all other values together. The rest goes to a
token that no value begins with."""

Fault = Literal["500", "429", "400", "drop", "hang", "page", "empty", "truncated", "filtered", "broken json"]


@dataclass
class ChatServer:
    """What the server does, and what it has seen.

    Attributes:
        key: Key that it asks for, if any.
        models: Names of the models that it has.
        knows_logprobs: Whether a request for logprobs is answered instead of refused.
        takes_pictures: Whether requests with pictures are answered instead of refused.
        is_down: Whether connections are closed without an answer.
        bad_crops: Faults by the SHA-256 of the picture.
        bodies: Bodies to answer with instead, by the SHA-256 of the picture.
        next_faults: Faults of the next requests, whatever the picture.
        dies_after: Number of answers after which the server goes down.
        asked: How often each picture was seen, by its SHA-256.
        answered: How often each picture was answered.
        requests: The bodies of the requests, without their pictures.
        headers: The headers of the requests.
        most_at_once: Largest number of requests that were being answered at once.
    """

    key: str | None = None
    models: tuple[str, ...] = (MODEL,)
    knows_logprobs: bool = True
    takes_pictures: bool = True
    is_down: bool = False
    bad_crops: dict[str, Fault] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    next_faults: list[Fault] = field(default_factory=list)
    dies_after: int | None = None
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    base_url: str = ""
    _at_once: int = 0

    async def serve(self, port: int, ready: Event, stop: Event) -> None:
        """Listen until `stop` is set."""
        app = web.Application(client_max_size=1 << 25)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._list)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            ready.set()
            await asyncio.to_thread(stop.wait)
        finally:
            await runner.cleanup()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if self.is_down:
            return _drop(request)
        data = [{"id": model, "object": "model", "created": 0, "owned_by": "us"} for model in self.models]
        return web.json_response({"object": "list", "data": data})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(request)
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.is_down:
            return _drop(request)
        self.headers.append(dict(request.headers))
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            return _error(401, f"Incorrect API key provided: {given}")
        body = await request.json()
        (message,) = body.pop("messages")
        text, picture = (part[part["type"]] for part in message["content"])
        jpeg = base64.b64decode(picture["url"].removeprefix("data:image/jpeg;base64,"), validate=True)
        sha256 = hashlib.sha256(jpeg).hexdigest()
        self.asked[sha256] += 1
        self.requests.append({**body, "text": text})
        await asyncio.sleep(0)
        refused = self._refusal(body, jpeg)
        if refused is not None:
            return refused
        fault = self.bad_crops.get(sha256) or (self.next_faults.pop(0) if self.next_faults else None)
        if fault in ("500", "429", "400"):
            return _error(int(fault), "as told", {"Retry-After": "0.01"})
        if fault == "drop":
            return _drop(request)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "page":
            return web.Response(text="<html>a page of a proxy</html>", content_type="text/html")
        if fault == "empty":
            return web.json_response({"id": "1", "object": "chat.completion", "choices": []})
        if self.dies_after is not None and self.answered.total() >= self.dies_after:
            self.is_down = True
            return _drop(request)
        self.answered[sha256] += 1
        if sha256 in self.bodies:
            return web.Response(body=self.bodies[sha256], content_type="application/json")
        return web.json_response(_completion(body, sha256, fault))

    def _refusal(self, body: dict[str, Any], jpeg: bytes) -> web.Response | None:
        if body["model"] not in self.models:
            return _error(404, f"The model `{body['model']}` does not exist.")
        if not self.takes_pictures:
            return _error(400, f"{body['model']} is not a multimodal model")
        if body.get("logprobs") and not self.knows_logprobs:
            return _error(400, "logprobs is not supported")
        try:
            Image.open(io.BytesIO(jpeg)).load()
        except OSError as error:
            return _error(400, f"not an image: {error}")
        return None


def expected_answer(schema: dict[str, Any], jpeg: bytes) -> dict[str, Any]:
    """Return the server's answer about a picture."""
    return answer_value(schema, hashlib.sha256(jpeg).hexdigest(), "")


def _completion(body: dict[str, Any], sha256: str, fault: Fault | None) -> dict[str, Any]:
    answer = answer_value(body["response_format"]["json_schema"]["schema"], sha256, "")
    text = json.dumps(answer)
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": list(_tokens(text, body["response_format"]))}
    if fault == "truncated":
        text, choice["finish_reason"] = text[:30], "length"
    if fault == "filtered":
        text, choice["finish_reason"] = "", "content_filter"
    if fault == "broken json":
        text = text[:-1]
    choice["message"] = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _tokens(text: str, response_format: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the tokens of an answer: keys and punctuation are certain, and each value is one token."""
    others = {"true": ["false", "null"], "false": ["true", "null"]}
    schema = response_format["json_schema"]["schema"]
    words = {word for found in _enums(schema) for word in found}
    for piece in re.findall(
        r'true|false|null|"[^"]*"(?=[,}])|\d+|[^\d"]+?(?=true|false|null|"|\d|$)|"[^"]*"|.', text
    ):
        if piece in others:
            yield _token(piece, [*others[piece], "?"])
        elif piece.strip('"') in words and piece.startswith('"'):
            enum = next(found for found in _enums(schema) if piece.strip('"') in found)
            yield _token(piece, [*(json.dumps(w) for w in enum if json.dumps(w) != piece), '"?'])
        else:
            yield _token(piece, [])


def _enums(schema: Any) -> Iterator[list[str]]:
    if isinstance(schema, dict):
        if "enum" in schema:
            yield schema["enum"]
        for value in schema.values():
            yield from _enums(value)


def _token(text: str, others: list[str]) -> dict[str, Any]:
    """Return a token with its alternatives; the last of `others` is what no value begins with."""

    def entry(token: str, probability: float) -> dict[str, Any]:
        return {"token": token, "bytes": list(token.encode()), "logprob": math.log(probability)}

    if not others:
        return {**entry(text, 1.0), "top_logprobs": [entry(text, 1.0)]}
    *values, foreign = others
    listed = [entry(text, CHOSEN), *(entry(value, OTHERS / len(values)) for value in values)]
    return {**entry(text, CHOSEN), "top_logprobs": [*listed, entry(foreign, 1 - CHOSEN - OTHERS)]}


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)


def _drop(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


@contextmanager
def chat_server(port: int = 0, **options: Any) -> Iterator[ChatServer]:
    """Run a server in a thread for as long as the context lasts. `options` are those of `ChatServer`."""
    server = ChatServer(**options)
    ready, stop = Event(), Event()
    thread = Thread(target=lambda: asyncio.run(server.serve(port, ready, stop)), daemon=True)
    thread.start()
    try:
        if not ready.wait(30):
            raise RuntimeError("the server did not start")
        yield server
    finally:
        stop.set()
        thread.join(30)
