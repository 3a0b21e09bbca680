"""A server that speaks the Gemini API on loopback, enforces a quota, and fails as scripted.

It supports what Shopframe uses of google-genai: generateContent, countTokens, models, files and batches.
Answers depend only on the images' bytes and the response schema. A model whose name begins with gemini-2.5
has the rules of 2.5, and any other model has those of 3.x (`gemini_models.py`). In a test, the server runs in
a thread:

    with gemini_server(requests_per_minute=10, faults=[Fault("safety")]) as server:
        ... server.base_url, server.key ... server.journal

It can also run as a process, which is controlled by HTTP requests to /_server/:

    python -m tests.servers.gemini_server --port 8123 --rpm 10 --rpd 60

Admitted requests count against the quota even if they fail later; refused requests don't. All keys belong to
one project, which has one quota for each model. Responses have the date of the server's clock.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from threading import Event, Thread
from typing import Any

from aiohttp import web

from tests.servers.gemini_answers import BadRequestError, Request, answer_text, given_for, read_request
from tests.servers.gemini_batches import ServerBatches
from tests.servers.gemini_clock import Limits, Quota, ServerClock, pacific_day
from tests.servers.gemini_faults import ERRORS, SPOILED, Fault, FaultScript, Reply, error, rate_limited

KEY = "AIza-only-for-loopback"
MODEL = "gemini-3.5-flash-lite"
MODEL_2_5 = "gemini-2.5-flash"


@dataclass(frozen=True)
class Seen:
    """One request as the server saw it.

    Attributes:
        at: Time of the request, by the server's clock.
        where: "online", "batch" (a line of a job) or "count".
        key_sha256: SHA-256 of the API key.
        model: Model that was asked.
        ids: Ids in the text before each image.
        images: SHA-256 of each image.
        tokens: Number of input tokens.
        status: HTTP status of the response; 0 if there was none, because the connection was dropped or
            hung, or because a batch job left out the line.
        fault: Kind of the fault that struck, if any.
        counted: Whether the request counts against the quota.
        config: Its generationConfig, with names in camelCase.
        usage: Tokens of input, output and thinking in the response.
    """

    at: float
    where: str
    key_sha256: str
    model: str
    ids: tuple[str, ...]
    images: tuple[str, ...]
    tokens: int
    status: int
    fault: str | None
    counted: bool
    config: dict[str, Any] = field(default_factory=dict)
    usage: tuple[int, int, int] = (0, 0, 0)


class GeminiServer:
    """State and request handlers of the server; `gemini_server` runs it.

    Attributes:
        journal: The requests, in the order in which they came.
        most_in_flight: The most requests at a time that the server was answering.
        bodies: Bodies to answer with instead, by the SHA-256 of an image in the request. `@ID@` in one is
            replaced by the id that the answer has to echo.
        lines: Likewise, whole lines of a batch job's answers. `@KEY@` in one is replaced by its key.

    Args:
        limits: The quota.
        clock: The server's clock.
        faults: What goes wrong.
        keys: API keys that are accepted.
        models: Models that are served.
        batch_delay_s: How long a batch job takes, in seconds.
        answer_s: The shortest and the longest time that an answer takes, in seconds of the server's loop.
    """

    def __init__(
        self,
        limits: Limits,
        clock: ServerClock,
        faults: list[Fault],
        keys: tuple[str, ...] = (KEY,),
        models: tuple[str, ...] = (MODEL,),
        batch_delay_s: float = 0.0,
        answer_s: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.script = FaultScript(faults, clock)
        self.keys = keys
        self.models = models
        self.key = keys[0]
        self.base_url = ""
        self._answer_s = answer_s
        self._random = random.Random(0)
        self.most_in_flight = self._in_flight = 0
        self.journal: list[Seen] = []
        self.bodies: dict[str, bytes] = {}
        self.lines: dict[str, bytes] = {}
        self._quotas: dict[str, Quota] = {}
        self._numbers = itertools.count(1)
        self._stopping = asyncio.Event()
        self.batches = ServerBatches(self, batch_delay_s)

    @property
    def counted(self) -> list[Seen]:
        """Requests that count against the quota."""
        return [seen for seen in self.journal if seen.counted]

    def counted_by_day(self) -> dict[str, int]:
        """Return the number of requests that count against the quota, by Pacific day."""
        days: dict[str, int] = {}
        for seen in self.counted:
            day = pacific_day(seen.at).isoformat()
            days[day] = days.get(day, 0) + 1
        return days

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20, middlewares=[self._checks])
        app.on_response_prepare.append(self._date)
        app.router.add_post("/{version}/models/{model}:generateContent", self._generate)
        app.router.add_post("/{version}/models/{model}:countTokens", self._count_tokens)
        app.router.add_get("/{version}/models/{model}", self._model)
        app.router.add_get("/{version}/models", self._list_models)
        app.router.add_get("/_server/journal", self._get_journal)
        app.router.add_route("*", "/_server/clock", self._set_clock)
        app.router.add_post("/_server/faults", self._add_faults)
        self.batches.add_routes(app)
        return app

    async def _date(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = formatdate(int(self.clock.now()), usegmt=True)

    @web.middleware
    async def _checks(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Check API version, key and model before a request is handled."""
        if request.path.startswith("/_server/"):
            return await handler(request)
        version = request.match_info.get("version", "v1beta")
        if version not in ("v1beta", "v1"):
            return Reply(404, "<html>404. That's an error.</html>").http()
        key = key_of(request)
        # An upload that was started with a key continues without it: its URL is the secret.
        if key not in self.keys and "upload_id" not in request.query:
            return ERRORS["invalid_key"](Fault("invalid_key"), key).http()
        model = request.match_info.get("model")
        if model is not None and model not in self.models:
            message = f"models/{model} is not found for API version {version}."
            if request.method == "GET":
                message = f"Model is not found: models/{model} for api version {version}"
            return error(404, "NOT_FOUND", message).http()
        try:
            return await handler(request)
        except BadRequestError as refused:
            return bad_request(refused).http()

    async def _generate(self, http: web.Request) -> web.StreamResponse:
        key, model = key_of(http), http.match_info["model"]
        quota = self._quotas.setdefault(model, Quota(self.limits))
        now = self.clock.now()
        try:
            request = read_request(await http.json(), model)
        except BadRequestError:
            # A refused request counts as a request of the day.
            quota.count(now, 0)
            self.note(now, "online", key, model, Request([], None, 0), 400, None, True)
            raise

        def note(status: int, fault: Fault | None = None, counted: bool = True, body: Any = None) -> None:
            self.note(now, "online", key, model, request, status, fault, counted, body)

        fault = self.script.next(request, "online")
        if fault and fault.kind.startswith(("rate_", "no_quota")):
            reply = ERRORS[fault.kind](fault, key)
            note(reply.status, fault, counted=False)
            return reply.http()
        violations = quota.violations(now, request.input_tokens)
        if violations:
            note(429, counted=False)
            found = [
                {"quotaMetric": v.quota_metric, "quotaId": v.quota_id, "quotaValue": str(v.limit)}
                for v in violations
            ]
            return rate_limited(found, max(v.retry_after_s for v in violations)).http()
        quota.count(now, request.input_tokens)
        if fault and fault.kind in ("hang", "drop"):
            note(0, fault)
            if fault.kind == "hang":
                await self._hang(fault)
            if http.transport:
                http.transport.abort()
            return web.Response()
        reply = self.reply_to(request, model, key, fault)
        note(reply.status, fault, body=reply.body)
        await self._take_time()
        body = given_for(request, self.bodies)
        return reply.http() if body is None else web.Response(body=body, content_type="application/json")

    async def _take_time(self) -> None:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await asyncio.sleep(self._random.uniform(*self._answer_s))
        finally:
            self._in_flight -= 1

    def reply_to(self, request: Request, model: str, key: str, fault: Fault | None) -> Reply:
        """Return the response to an admitted request, replaced or spoiled by the fault if there is one."""
        if fault and fault.kind in ERRORS:
            return ERRORS[fault.kind](fault, key)
        text, finish = answer_text(request), "STOP"
        output, most = -(-len(text) // 4), request.max_output_tokens
        thoughts = request.thought_tokens
        if most is not None and output + thoughts > most:
            output = max(0, most - thoughts)
            text, finish = text[: 4 * output], "MAX_TOKENS"
        body: dict[str, Any] = {
            "candidates": [
                {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": finish, "index": 0}
            ],
            "usageMetadata": {
                "promptTokenCount": request.input_tokens,
                "candidatesTokenCount": output,
                "totalTokenCount": request.input_tokens + output + thoughts,
                **({"thoughtsTokenCount": thoughts} if thoughts else {}),
            },
            "modelVersion": model,
            "responseId": f"response-{next(self._numbers)}",
        }
        if fault:
            SPOILED[fault.kind](body, request)
        return Reply(200, body)

    def note(
        self,
        at: float,
        where: str,
        key: str,
        model: str,
        request: Request,
        status: int,
        fault: Fault | None,
        counted: bool,
        body: Any = None,
    ) -> None:
        """Add a request to the journal. `body` is that of the response."""
        counts = body.get("usageMetadata", {}) if isinstance(body, dict) else {}
        self.journal.append(
            Seen(
                at,
                where,
                hashlib.sha256(key.encode()).hexdigest(),
                model,
                tuple(request.ids),
                tuple(image.sha256 for image in request.images),
                request.input_tokens,
                status,
                fault.kind if fault else None,
                counted,
                request.config,
                (
                    counts.get("promptTokenCount", 0),
                    counts.get("candidatesTokenCount", 0),
                    counts.get("thoughtsTokenCount", 0),
                ),
            )
        )

    async def _hang(self, fault: Fault) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), fault.seconds)
        except TimeoutError:
            return

    async def _count_tokens(self, http: web.Request) -> web.StreamResponse:
        key, model = key_of(http), http.match_info["model"]
        request = read_request(await http.json(), model)
        fault = self.script.next(request, "count")
        reply = ERRORS[fault.kind](fault, key) if fault else Reply(200, {"totalTokens": request.input_tokens})
        self.note(self.clock.now(), "count", key, model, request, reply.status, fault, counted=False)
        return reply.http()

    async def _model(self, http: web.Request) -> web.StreamResponse:
        name = http.match_info["model"]
        fault = self.script.next(None, "model")
        if fault:
            return ERRORS[fault.kind](fault, key_of(http)).http()
        return web.json_response({"name": f"models/{name}", "version": "001", "displayName": name})

    async def _list_models(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"models": [{"name": f"models/{name}"} for name in self.models]})

    async def _get_journal(self, _: web.Request) -> web.StreamResponse:
        return web.json_response([asdict(seen) for seen in self.journal])

    async def _set_clock(self, http: web.Request) -> web.StreamResponse:
        """GET returns the time; POST takes {"advance": s} or {"start": epoch, "speed": x}."""
        if http.method == "POST":
            change = await http.json()
            self.clock.advance(change.pop("advance", 0.0))
            if change:
                self.clock.set(**change)
        return web.json_response(self.clock.state())

    async def _add_faults(self, http: web.Request) -> web.StreamResponse:
        """POST takes a list of faults as JSON objects and appends them to the script."""
        self.script.faults += [Fault(**fault) for fault in await http.json()]
        return web.json_response({"left": self.script.left})

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[None]:
        """Listen in the running loop for as long as the context lasts."""
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            self._stopping.set()
            await runner.cleanup()

    async def serve(self, port: int, ready: Callable[[], None], stop: Event) -> None:
        """Listen until `stop` is set."""
        async with self.listening(port):
            ready()
            try:
                await asyncio.to_thread(stop.wait)
            finally:
                # The thread that waits for `stop` must end even if this coroutine is interrupted.
                stop.set()


def key_of(request: web.Request) -> str:
    return request.headers.get("x-goog-api-key") or request.query.get("key", "")


def bad_request(refused: BadRequestError) -> Reply:
    details = None
    if refused.field:
        violation = {"field": refused.field, "description": str(refused)}
        details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    return error(400, "INVALID_ARGUMENT", str(refused), details)


@contextmanager
def gemini_server(
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    requests_per_day: int | None = None,
    faults: list[Fault] | None = None,
    clock: ServerClock | None = None,
    port: int = 0,
    **options: Any,
) -> Iterator[GeminiServer]:
    """Run a server in a thread for as long as the context lasts. `options` are those of `GeminiServer`."""
    limits = Limits(requests_per_minute, tokens_per_minute, requests_per_day)
    server = GeminiServer(limits, clock or ServerClock(), faults or [], **options)
    ready, stop = Event(), Event()
    thread = Thread(target=lambda: asyncio.run(server.serve(port, ready.set, stop)), daemon=True)
    thread.start()
    try:
        if not ready.wait(30):
            raise RuntimeError("the Gemini server did not start")
        yield server
    finally:
        stop.set()
        thread.join(30)


def main() -> None:
    parser = argparse.ArgumentParser(description="A local server that speaks the Gemini API")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rpm", type=int, help="limit of requests per minute")
    parser.add_argument("--tpm", type=int, help="limit of input tokens per minute")
    parser.add_argument("--rpd", type=int, help="limit of requests per day")
    parser.add_argument("--model", action="append", help=f"model to serve (repeatable; default: {MODEL})")
    parser.add_argument("--key", default=KEY, help="the only API key that is accepted")
    parser.add_argument("--speed", type=float, default=1.0, help="speed of the clock; 0 stops it")
    parser.add_argument("--start", type=float, help="start of the clock, in epoch seconds (default: now)")
    parser.add_argument("--batch-delay", type=float, default=0.0, help="duration of a batch job, in seconds")
    parser.add_argument("--faults", default="[]", help='JSON list, such as [{"kind": "safety", "times": 3}]')
    options = parser.parse_args()
    server = GeminiServer(
        Limits(options.rpm, options.tpm, options.rpd),
        ServerClock(options.start, options.speed),
        [Fault(**fault) for fault in json.loads(options.faults)],
        (options.key,),
        tuple(options.model or (MODEL,)),
        options.batch_delay,
    )

    def say() -> None:
        print(f"gemini.base_url={server.base_url} GEMINI_API_KEY={options.key}", flush=True)

    asyncio.run(server.serve(options.port, say, Event()))


if __name__ == "__main__":
    main()
