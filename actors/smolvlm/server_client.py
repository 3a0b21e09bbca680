"""Ask a server about one crop, by OpenAI's chat completions: vLLM, SGLang, llama.cpp, Ollama, Ray Serve.

The `openai` package sends the requests, waits as `Retry-After` says, and tells errors apart by type.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from actors.attributes import REASONING_KEY, AttributeSchema
from actors.errors import ServerUnavailableError
from actors.records import Annotation
from actors.smolvlm.server_settings import ServerSettings
from actors.smolvlm.value_confidences import Certainty, WrittenToken, certainty_of

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletion
    from openai.types.chat.chat_completion import Choice

log = logging.getLogger(__name__)

_ALTERNATIVES = 20
"""Tokens whose probabilities are asked for at each position: the most that vLLM and OpenAI allow."""

_TRY_AGAIN = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS})
_MAY_BE_LOGPROBS = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
_NO_KEY = "none"
_LARGEST_LOGPROB = 0.01
"""That of a certain token is 0, and may be a little more by rounding."""
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that the server refuses, and would refuse again.

    Attributes:
        status: HTTP status.
        reason: What the server says, without the key.
    """

    status: int
    reason: str


class ServerClient:
    """Holds the connections to one server. Threads may share it."""

    def __init__(
        self,
        base_url: str,
        settings: ServerSettings,
        model: str,
        prompt: str,
        schema: AttributeSchema,
        reasoning: bool = False,
        api_key: SecretStr | None = None,
    ) -> None:
        """Prepare the client without sending anything.

        Args:
            base_url: URL of the API.
            settings: Time-out, retries and the length of answers.
            model: Name of the model on the server.
            prompt: The question.
            schema: The attributes.
            reasoning: Whether a short explanation is asked for.
            api_key: The key, if the server needs one.
        """
        self._secret = None if api_key is None else api_key.get_secret_value()
        self._address, self._timeout_s = base_url, settings.timeout_s
        self._patient, self._once = self._sdk(settings.retries), self._sdk(retries=0)
        self._schema = schema
        self._prompt = prompt
        self._request: dict[str, Any] = {
            "model": model,
            "temperature": 0,
            "max_tokens": settings.answer_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "person", "strict": True, "schema": schema.json_schema(reasoning)},
            },
        }
        self._asks_logprobs = True
        self._logprobs_are_accepted = False

    def _sdk(self, retries: int) -> OpenAI:
        from openai import OpenAI

        sdk = OpenAI(
            api_key=self._secret or _NO_KEY,
            base_url=self._address,
            timeout=self._timeout_s,
            max_retries=retries,
        )
        # The package takes these from the environment, but they belong to OpenAI's own service.
        sdk.organization = sdk.project = sdk.admin_api_key = None
        return sdk

    def ask(self, crop: bytes, patiently: bool = True) -> Annotation | Refusal:
        """Ask about one crop.

        Args:
            crop: JPEG of one person.
            patiently: Whether a request that fails is sent again, as often as the settings say.

        Returns:
            The answer, whose outcome is "ok", "invalid", "blocked" or "truncated", or the server's refusal.

        Raises:
            ServerUnavailableError: The server can't be reached, is too slow, too busy, or fails.
        """
        asks_logprobs = self._asks_logprobs
        found = self._send(crop, asks_logprobs, patiently)
        if isinstance(found, Refusal):
            if found.status not in _MAY_BE_LOGPROBS or not asks_logprobs or self._logprobs_are_accepted:
                return found
            without = self._send(crop, False, patiently)
            if isinstance(without, Refusal):
                return found
            if self._asks_logprobs:
                log.warning(
                    "smolvlm: the server doesn't give logprobs, so there are no confidences: %s", found.reason
                )
            self._asks_logprobs = False
            return without
        self._logprobs_are_accepted = self._logprobs_are_accepted or asks_logprobs
        return found

    def models(self) -> list[str]:
        """Return the names of the models that the server has; none if it doesn't say."""
        import openai

        try:
            return [model.id for model in self._once.models.list().data]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            return []

    def _send(self, crop: bytes, asks_logprobs: bool, patiently: bool) -> Annotation | Refusal:
        import openai

        picture = f"data:image/jpeg;base64,{base64.b64encode(crop).decode()}"
        content = [
            {"type": "text", "text": self._prompt},
            {"type": "image_url", "image_url": {"url": picture}},
        ]
        request = {**self._request, "messages": [{"role": "user", "content": content}]}
        if asks_logprobs:
            request |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        sdk = self._patient if patiently else self._once
        try:
            completion: ChatCompletion = sdk.chat.completions.create(**request)
            choice = completion.choices[0]
            return self._annotation(choice)
        except openai.APIStatusError as error:
            said = self._scrub(f"{error.status_code} {_message_of(error)}")
            if error.status_code in _TRY_AGAIN or error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise ServerUnavailableError(f"smolvlm.server: {said}") from None
            return Refusal(error.status_code, said)
        except openai.APITimeoutError:
            raise ServerUnavailableError(
                f"smolvlm.server: no answer from {self._address} within {self._timeout_s:g} s"
            ) from None
        except openai.APIConnectionError as error:
            cause = self._scrub(str(error.__cause__ or error))
            raise ServerUnavailableError(
                f"smolvlm.server: {self._address} can't be reached: {cause}"
            ) from None
        except (
            openai.OpenAIError,
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
            RecursionError,
        ) as error:
            # A proxy's page in place of an answer, for example.
            raise ServerUnavailableError(
                f"smolvlm.server: {self._address} doesn't answer as a chat completion "
                f"({type(error).__name__})"
            ) from None

    def _annotation(self, choice: Choice) -> Annotation:
        text = choice.message.content
        refusal = choice.message.refusal
        if choice.finish_reason == "content_filter" or refusal:
            return Annotation("blocked", refusal or "the server's filter")
        if choice.finish_reason == "length":
            return Annotation("truncated", "the answer is longer than smolvlm.server.answer_tokens")
        try:
            document = json.loads(text or "")
            values = self._schema.parse(document)
        except (ValueError, RecursionError) as error:
            return Annotation("invalid", f"not a valid answer: {error}"[:_LONGEST_MESSAGE])
        certainty = Certainty({}, {})
        if choice.logprobs is not None and choice.logprobs.content:
            certainty = certainty_of((text or "").strip(), _written(choice.logprobs.content), self._schema)
        return Annotation(
            "ok",
            None,
            values,
            certainty.confidence,
            str(document[REASONING_KEY]).strip() if REASONING_KEY in document else None,
            certainty.distribution,
        )

    def _scrub(self, text: str) -> str:
        shown = text if self._secret is None else text.replace(self._secret, "***")
        return " ".join(shown.split())[:_LONGEST_MESSAGE]


def _message_of(error: Any) -> str:
    """Return what the server says, from the body of its response if that has the usual form."""
    body = error.body
    found = body.get("message") or body.get("detail") if isinstance(body, dict) else None
    return str(found or error.message)


def _written(tokens: Sequence[Any]) -> list[WrittenToken]:
    """Return the tokens of an answer, from OpenAI's `logprobs.content`.

    There are none if they have no alternatives, or if a probability is more than 1.
    """
    found: list[WrittenToken] = []
    if not any(token.top_logprobs for token in tokens):
        return found
    for token in tokens:
        alternatives = [(_bytes_of(other), float(other.logprob)) for other in token.top_logprobs or ()]
        own = _bytes_of(token)
        if all(text != own for text, _ in alternatives):
            alternatives.append((own, float(token.logprob)))
        if not all(logprob <= _LARGEST_LOGPROB for _, logprob in alternatives):
            return []
        found.append(WrittenToken(own, alternatives))
    return found


def _bytes_of(token: Any) -> bytes:
    return bytes(token.bytes) if token.bytes is not None else str(token.token).encode()
