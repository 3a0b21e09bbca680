"""Turn Gemini's JSON response to one request into an outcome for each crop."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.attributes import REASONING_KEY, REASONING_MAX_CHARS, AttributeSchema
from actors.gemini.api.packing import PackedRequest, mismatch
from actors.gemini.api.request import PERSONS_KEY
from actors.gemini.api.tokens import TokenUsage
from actors.gemini.settings import ID_KEY
from actors.plain_text import plain_text
from actors.records import Annotation, Outcome

# fmt: off
_BLOCKED = frozenset({
    "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION", "PUP_LIMITED_DISABLED", "MODEL_ARMOR",
})
# fmt: on
_TRUNCATED = frozenset({"MAX_TOKENS", "CONTINUATION"})
_FINISHED = frozenset({"STOP", "FINISH_REASON_UNSPECIFIED", ""})
"""The finish reasons above are those of google-genai's `FinishReason`. Any other reason is an error."""

_LONGEST_NAME = 200
_LONGEST_TEXT = 10_000
_MOST_TOKENS = 10**8
"""A response that counts more has no count: no model takes so many."""

_FENCED = re.compile(r"^\s*```\w*\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GeminiAnswer:
    """The result of one request.

    Attributes:
        annotations: Outcome of each crop by crop key, in the request's order. Holds all crops of the
            request except those of `ask_again`, or none if `split_reason` is set.
        split_reason: Why the answer can't be used and the request must be sent again in halves. It is
            never set for a request of one crop.
        ask_again: Keys of the crops whose ids are missing in the answer, or echoed more than once. Others
            have an outcome, so this is never set for a request of one crop.
        refusal: The server's message if it refused the request with 400.
        problem: Why no crop got a usable answer, in the same words whenever the reason is the same. None if a
            crop got one, or if the answer was blocked, which is for the crops to cause.
        text: The beginning of the answer's text, as far as there is any.
        usage: Tokens that the server counted, even if the answer can't be used.
        model_version: Name of the model that answered, as the response gives it.
        response_id: The server's id of the response.
    """

    annotations: dict[str, Annotation]
    split_reason: str | None = None
    usage: TokenUsage = field(default_factory=TokenUsage)
    model_version: str | None = None
    response_id: str | None = None
    refusal: str | None = None
    problem: str | None = None
    text: str = ""
    ask_again: tuple[str, ...] = ()


def read_answer(body: Mapping[str, Any], request: PackedRequest, schema: AttributeSchema) -> GeminiAnswer:
    """Read the outcomes of the crops from a `GenerateContentResponse`.

    A crop whose id the answer echoes exactly once becomes `ok` or `invalid` on its own. If there are such
    crops, only the others are to be asked about again. Any other problem concerns the whole request. For a
    request of one crop, it becomes the outcome of that crop (`blocked`, `truncated`, `invalid` or `error`). A
    request of several crops must be sent again in halves, since one crop may have spoiled the answers to the
    others.

    Args:
        body: The response's JSON, with keys in camelCase.
        request: The request that was sent.
        schema: The schema that each answer must match.
    """
    found = _items(body, request)
    problem = None
    ask_again: tuple[str, ...] = ()
    if isinstance(found, _Problem):
        annotations, split_reason = _shared(found.outcome, request)
        problem = None if found.status == "blocked" else found.kind
    else:
        split_reason = None
        annotations = {
            crop.key: _annotation(found[echo_id], schema)
            for echo_id, crop in zip(request.ids, request.crops, strict=True)
            if echo_id in found
        }
        ask_again = tuple(crop.key for crop in request.crops if crop.key not in annotations)
        if all(annotation.status != "ok" for annotation in annotations.values()):
            problem = "the answers don't fit the schema"
    return GeminiAnswer(
        annotations,
        split_reason,
        _usage(body),
        _text_or_none(body.get("modelVersion")),
        _text_or_none(body.get("responseId")),
        problem=problem,
        text=plain_text(_text_of(_candidate(body)), _LONGEST_TEXT),
        ask_again=ask_again,
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    """A problem of a whole response: its outcome, what kind of problem it is, and what differs each time."""

    status: Outcome
    kind: str
    detail: str = ""

    @property
    def outcome(self) -> Annotation:
        return Annotation(self.status, f"{self.kind}: {self.detail}" if self.detail else self.kind)


def refused(request: PackedRequest, reason: str) -> GeminiAnswer:
    """Return the answer to a request that the server refused with 400 for `reason`."""
    annotations, split_reason = _shared(Annotation("error", reason), request)
    return GeminiAnswer(annotations, split_reason, refusal=reason)


def is_other_model(asked: str, answered: str | None) -> bool:
    """Return whether a different model answered than the one requested.

    A dated or numbered version of the model ("gemini-2.5-flash-001") counts as the same model. For an
    alias that ends in "latest", Google chooses the model, so any model counts as the same.
    """
    if answered is None or asked.endswith("latest"):
        return False
    name = answered.removeprefix("models/")
    return re.fullmatch(re.escape(asked) + r"(-(preview|exp))?(-\d+)*", name) is None


def _shared(outcome: Annotation, request: PackedRequest) -> tuple[dict[str, Annotation], str | None]:
    if len(request.crops) > 1:
        return {}, f"{outcome.status}: {outcome.reason}"
    return {request.crops[0].key: outcome}, None


def _candidate(body: Mapping[str, Any]) -> Mapping[str, Any]:
    candidates = body.get("candidates")
    return _mapping(candidates[0]) if isinstance(candidates, list) and candidates else {}


def _items(body: Mapping[str, Any], request: PackedRequest) -> dict[str, dict[str, Any]] | _Problem:
    """Return the answers by the ids that are echoed once, or the problem of the whole response."""
    blocked = _mapping(body.get("promptFeedback")).get("blockReason")
    if blocked:
        return _Problem("blocked", f"the prompt was blocked: {blocked}")
    candidate = _candidate(body)
    if not candidate:
        return _Problem("error", "the response has no candidates")
    finish = str(candidate.get("finishReason") or "")
    if finish in _BLOCKED:
        return _Problem("blocked", f"the answer was blocked: {finish}")
    if finish in _TRUNCATED:
        return _Problem("truncated", f"the answer was cut: {finish}")
    if finish not in _FINISHED:
        return _Problem("error", f"the model stopped: {finish}")
    text = _text_of(candidate)
    if not text.strip():
        return _Problem("error", "the answer is empty")
    fenced = _FENCED.match(text)
    try:
        answer = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError) as error:
        return _Problem("invalid", "the answer is not JSON", str(error))
    items = _mapping(answer).get(PERSONS_KEY)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return _Problem("invalid", f'the answer has no list "{PERSONS_KEY}" of objects')
    echoed = [str(item.get(ID_KEY)) for item in items]
    times = Counter(echoed)
    once = {
        echo_id: item
        for echo_id, item in zip(echoed, items, strict=True)
        if echo_id in request.ids and times[echo_id] == 1
    }
    return once or _Problem("invalid", "the answers don't echo the ids", mismatch(request, echoed) or "")


def _annotation(item: Mapping[str, Any], schema: AttributeSchema) -> Annotation:
    answer = {key: value for key, value in item.items() if key != ID_KEY}
    reasoning = answer.get(REASONING_KEY)
    if isinstance(reasoning, str):
        # Gemini's schemas have no maximum length for text, and an overlong sentence isn't worth the cost
        # of a second request.
        answer[REASONING_KEY] = reasoning = plain_text(reasoning.strip(), REASONING_MAX_CHARS)
    try:
        values = schema.parse(answer)
    except ValueError as error:
        return Annotation("invalid", str(error))
    return Annotation("ok", None, values, {}, reasoning)


def _text_of(candidate: Mapping[str, Any]) -> str:
    parts = _mapping(candidate.get("content")).get("parts")
    shown = [_mapping(part) for part in parts] if isinstance(parts, list) else []
    return "".join(str(part.get("text") or "") for part in shown if not part.get("thought"))


def _usage(body: Mapping[str, Any]) -> TokenUsage:
    counted = _mapping(body.get("usageMetadata"))
    return TokenUsage(
        _count(counted.get("promptTokenCount")),
        _count(counted.get("candidatesTokenCount")),
        _count(counted.get("thoughtsTokenCount")),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value <= _MOST_TOKENS else 0


def _text_or_none(value: Any) -> str | None:
    return plain_text(value, _LONGEST_NAME) if isinstance(value, str) and value else None
