"""Client for Gemini, based on google-genai. Each call sends one request, once.

The client doesn't wait, retry or count requests against the quota; the caller does. A call returns an
answer with an outcome for each crop, or raises one of three errors: GeminiRateLimitedError (wait),
GeminiUnavailableError (try later) or GeminiRefusedError (stop). Their messages never contain the API key.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import SecretStr

from actors.attributes import AttributeSchema
from actors.errors import (
    ConfigError,
    GeminiModelError,
    GeminiRateLimitedError,
    GeminiRefusedError,
    GeminiUnavailableError,
)
from actors.gemini.api.answer import GeminiAnswer, is_other_model, read_answer, refused
from actors.gemini.api.error_responses import GeminiError, Refusal, Scrubber, meaning_of
from actors.gemini.api.packing import PackedRequest
from actors.gemini.api.request import generation_config, request_contents
from actors.gemini.api.tokens import cost_usd
from actors.gemini.api.traffic import TrafficCounter
from actors.gemini.quota.lease import SystemClock
from actors.gemini.quota.server_time import ServerTime
from actors.gemini.settings import GeminiSettings, ResolvedGemini

if TYPE_CHECKING:
    from google.genai.client import AsyncClient
    from google.genai.types import HttpResponse

log = logging.getLogger(__name__)

API_KEY_VARIABLE = "GEMINI_API_KEY"

_REFUSED_IN_A_ROW = 12
"""If this many requests are refused in a row, the settings are at fault. The number exceeds the refusals
while halving finds one bad crop among 64, and is low enough to leave most of a day's quota."""

_Result = TypeVar("_Result")


def read_api_key() -> SecretStr:
    """Read the API key from the environment variable GEMINI_API_KEY.

    Raises:
        ConfigError: The variable is not set, or its value can't be a key.
    """
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not key:
        raise ConfigError(
            f"{API_KEY_VARIABLE}: not set; gemini.enabled needs a key (aistudio.google.com/apikey)"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"{API_KEY_VARIABLE}: contains characters that can't be part of a key")
    return SecretStr(key)


class GeminiClient:
    """A client that holds the connections to one server.

    The client can't be pickled, so create it in the process that uses it. It doesn't limit the number of
    concurrent calls; the caller does.

    Attributes:
        settings: Server, model and request options.
        resolved: The model and prompt.
        schema: The schema that each answer must match.
        scrub: Removes the API key from text. The errors raised here are already scrubbed; use it for
            messages of the server that are used elsewhere.
        has_answered: Whether the server has answered a request, and thus accepts the arguments that all
            requests have in common.
        traffic: What was sent and answered.
    """

    def __init__(
        self,
        settings: GeminiSettings,
        resolved: ResolvedGemini,
        schema: AttributeSchema,
        api_key: SecretStr | None = None,
        time: ServerTime | None = None,
    ) -> None:
        """Prepare the client without sending anything.

        Args:
            settings: Server, model and request options.
            resolved: The model and prompt.
            schema: The schema that each answer must match.
            api_key: API key; by default it is read from the environment.
            time: A clock that learns the server's time from its responses.

        Raises:
            ConfigError: There is no valid key.
        """
        from google import genai
        from google.genai import types

        key = (api_key or read_api_key()).get_secret_value()
        self.settings = settings
        self.resolved = resolved
        self.schema = schema
        self.scrub = Scrubber(key)
        self.has_answered = False
        self.traffic = TrafficCounter()
        self._time = time or ServerTime(SystemClock())
        self._refused_in_a_row = 0
        self._warned_of: set[str] = set()
        options = types.HttpOptions(
            base_url=settings.base_url,
            api_version=settings.api_version,
            timeout=round(settings.timeout_s * 1000),
            # A single attempt, since the SDK's own retries ignore Retry-After and would not be counted.
            retry_options=types.HttpRetryOptions(attempts=1),
        )
        # Without `vertexai=False`, GOOGLE_GENAI_USE_VERTEXAI in the environment could choose another service.
        self._sdk = genai.Client(vertexai=False, api_key=key, http_options=options).aio

    @property
    def sdk(self) -> AsyncClient:
        """The SDK's client, whose calls are passed to `call`."""
        return self._sdk

    async def ask(self, request: PackedRequest) -> GeminiAnswer:
        """Send one request, once.

        Returns:
            The outcomes of all crops, or a reason to send the request again in halves.

        Raises:
            GeminiRateLimitedError: A quota is spent.
            GeminiUnavailableError: There is no answer, for a reason that may be temporary.
            GeminiRefusedError: No request will be answered, because the key, the model or the settings
                are wrong.
        """
        with self.traffic.errors():
            answer = await self._ask(request)
        self.traffic.answered(answer, cost_usd(answer.usage, self.settings))
        return answer

    async def _ask(self, request: PackedRequest) -> GeminiAnswer:
        from google.genai import types

        config = generation_config(request, self.settings, self.schema).model_copy(
            # The SDK parses responses leniently and drops an error in a response with status 200, so the
            # body is read here. Automatic continuation of a truncated answer would send a second request
            # that isn't counted.
            update={
                "should_return_http_response": True,
                "automatic_continuation": False,
                # There are no functions to call, but the SDK would log a line about them for each request.
                "automatic_function_calling": types.AutomaticFunctionCallingConfig(disable=True),
            }
        )
        model = self.resolved.model
        called = self._sdk.models.generate_content(
            model=model, contents=request_contents(request, self.resolved), config=config
        )
        response = await self._outcome(called, model)
        if isinstance(response, types.GenerateContentResponse):
            found = self._body(response.sdk_http_response or types.HttpResponse(), model)
        else:
            found = response
        if isinstance(found, Refusal):
            return self._refused(request, found)
        if isinstance(found, Exception):
            raise found
        self._refused_in_a_row = 0
        self.has_answered = True
        answer = read_answer(found, request, self.schema)
        self._warn_of_other_model(answer.model_version)
        return answer

    async def count_tokens(self, request: PackedRequest) -> int:
        """Ask the server to count the input tokens of the request's prompt and crops.

        Raises:
            GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As in `ask`.
        """
        model = self.resolved.model
        contents = request_contents(request, self.resolved)
        counted = await self.call(self._sdk.models.count_tokens(model=model, contents=contents), model)
        return counted.total_tokens or 0

    async def check(self) -> None:
        """Check that the server accepts the key and has the model.

        It requests the model's description, and counts tokens where there is none. Neither costs quota.

        Raises:
            GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As in `ask`.
        """
        model = self.resolved.model
        try:
            await self.call(self._sdk.models.get(model=model), model)
        except GeminiModelError:
            # A name that Google forwards to another model may have no description, and still answer.
            await self.call(self._sdk.models.count_tokens(model=model, contents="?"), model)

    async def model_names(self) -> list[str]:
        """Return the names of the models that the server has for this key. It costs no quota.

        Raises:
            GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As in `ask`.
        """

        async def listed() -> list[str]:
            return [str(model.name).removeprefix("models/") async for model in await self._sdk.models.list()]

        return await self.call(listed(), "the list of models")

    async def learn_time(self) -> None:
        """Let the clock learn the server's time, by a request that costs no quota.

        The list of models is requested, because the SDK keeps the headers of that response.

        Raises:
            GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As in `ask`. The clock has
                learnt the time nevertheless if the server sent a response.
        """
        from google.genai import types

        config = types.ListModelsConfig(page_size=1)
        await self.call(self._sdk.models.list(config=config), "the list of models")

    async def call(self, called: Awaitable[_Result], asked: str) -> _Result:
        """Await a call of the SDK and convert its exceptions to Shopframe's errors.

        Args:
            called: A call of `sdk`.
            asked: The object of the call, to name in messages.

        Raises:
            GeminiRateLimitedError, GeminiUnavailableError: As in `ask`.
            GeminiRefusedError: As in `ask`, and also if the server refuses only this request.
        """
        found = await self._outcome(called, asked)
        if isinstance(found, Refusal):
            found = GeminiRefusedError(found.reason)
        # Raising outside the `except` blocks keeps the SDK's error, whose headers hold the key, out of the
        # new error's context.
        if isinstance(found, GeminiRefusedError | GeminiRateLimitedError | GeminiUnavailableError):
            raise found
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.aclose()

    async def _outcome(self, called: Awaitable[_Result], asked: str) -> _Result | GeminiError | Refusal:
        import aiohttp
        from google.genai import errors

        sent_at = self._time.local()
        try:
            found = await called
        except errors.APIError as error:
            # If the error came in the body of a response with status 200, the SDK sets no response.
            headers = getattr(error.response, "headers", None) or {}
            self._time.observe(headers, sent_at)
            return meaning_of(error.code, error.details, headers, asked, self.scrub)
        except TimeoutError:
            return GeminiUnavailableError(
                f"{asked}: Gemini did not answer within {self.settings.timeout_s:g} s", may_be_billed=True
            )
        except (aiohttp.ClientError, OSError) as error:
            why = (error.strerror if isinstance(error, OSError) else str(error)) or "no detail"
            said = self.scrub(f"{type(error).__name__}: {why}")
            was_sent = not isinstance(error, aiohttp.ClientConnectorError)
            return GeminiUnavailableError(
                f"{asked}: {self.settings.base_url} can't be reached: {said}",
                was_sent=was_sent,
                may_be_billed=was_sent,
            )
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            # The SDK takes for granted that a body is a JSON object with the fields that it knows.
            return GeminiUnavailableError(f"{asked}: Gemini's response can't be read", may_be_billed=True)
        response = getattr(found, "sdk_http_response", None)
        self._time.observe(getattr(response, "headers", None) or {}, sent_at)
        return found

    def _body(self, response: HttpResponse, asked: str) -> dict[str, Any] | GeminiError | Refusal:
        """Return the JSON of a response with status 200, or the error that it holds."""
        try:
            body = json.loads(response.body or "")
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            said = f"{asked}: Gemini's response is not a JSON object"
            return GeminiUnavailableError(said, may_be_billed=True)
        if "error" not in body:
            return body
        error = body["error"]
        code = error.get("code") if isinstance(error, dict) else None
        return meaning_of(
            code if isinstance(code, int) else HTTPStatus.INTERNAL_SERVER_ERROR,
            body,
            response.headers or {},
            asked,
            self.scrub,
        )

    def _refused(self, request: PackedRequest, refusal: Refusal) -> GeminiAnswer:
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= _REFUSED_IN_A_ROW:
            raise GeminiRefusedError(
                f"{refusal.reason}; the last {self._refused_in_a_row} requests were all refused, so the "
                "crops are not the cause: check the gemini section"
            )
        return refused(request, refusal.reason)

    def _warn_of_other_model(self, answered: str | None) -> None:
        asked = self.resolved.model
        if answered and is_other_model(asked, answered) and answered not in self._warned_of:
            self._warned_of.add(answered)
            log.warning("gemini.model: %s was requested, but %s answered", asked, answered)
