"""Scripted faults of the Gemini server.

Each fault waits for requests that it applies to, and strikes a given number of times.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.servers.gemini_answers import Request, list_key
from tests.servers.gemini_clock import ServerClock

FREE_TIER = "generativelanguage.googleapis.com/generate_content_free_tier"
RPC = "type.googleapis.com/google.rpc"


@dataclass(frozen=True)
class Reply:
    """A response. The body is sent as JSON, or as text if it is a string."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)

    def http(self) -> web.Response:
        if isinstance(self.body, str):
            return web.Response(
                status=self.status, text=self.body, content_type="text/html", headers=self.headers
            )
        return web.json_response(self.body, status=self.status, headers=self.headers)


@dataclass
class Fault:
    """One fault, and the requests that it applies to.

    Attributes:
        kind: One of `KINDS`.
        times: Number of times that the fault strikes; None means no limit.
        after: Number of requests that pass first, of those that the fault applies to.
        min_crops: Minimum number of images in a request.
        image_sha256: SHA-256 of an image that a request must contain; None allows any images.
        where: "online" for generateContent, "batch" for lines of a batch, "any" for both, "count" for
            countTokens, "files" for uploads and downloads of files, "batches" for batch jobs, "model" for
            the model's description.
        retry_after_s: Time that a 429 or 503 tells the client to wait.
        seconds: Duration of a hang, after which the connection is dropped; None means until the server
            stops.
        since: Time by the server's clock from which the fault strikes.
        until: Time by the server's clock until which the fault strikes; None means without an end.
    """

    kind: str
    times: int | None = 1
    after: int = 0
    min_crops: int = 0
    image_sha256: str | None = None
    where: str = "any"
    retry_after_s: float = 20.0
    seconds: float | None = None
    since: float = 0.0
    until: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no fault {self.kind!r}; use one of: {', '.join(sorted(KINDS))}")

    def fits(self, request: Request | None, where: str, now: float) -> bool:
        generates = where in ("online", "batch")
        if now < self.since or (self.until is not None and now >= self.until):
            return False
        if self.times == 0 or self.where not in (("any", where) if generates else (where,)):
            return False
        if self.kind.startswith("job_") or (self.kind.startswith("line_") and where != "batch"):
            return False
        if self.kind in ("hang", "drop") and where == "batch":
            return False
        images = request.images if request else []
        known = self.image_sha256 is None or self.image_sha256 in [image.sha256 for image in images]
        return known and len(images) >= self.min_crops


class FaultScript:
    """A list of faults. The first one that fits a request strikes."""

    def __init__(self, faults: list[Fault], clock: ServerClock) -> None:
        self.faults = list(faults)
        self.clock = clock

    def next(self, request: Request | None, where: str) -> Fault | None:
        now = self.clock.now()
        for fault in self.faults:
            if fault.fits(request, where, now):
                if fault.after:
                    fault.after -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    @property
    def left(self) -> int:
        """Number of strikes that are left, without faults that have no limit."""
        return sum(fault.times or 0 for fault in self.faults)


def error(
    status: int, code: str, message: str, details: list[dict[str, Any]] | None = None, **headers: str
) -> Reply:
    """Return an error in Google's format."""
    body: dict[str, Any] = {"code": status, "message": message, "status": code}
    if details:
        body["details"] = details
    return Reply(status, {"error": body}, {k.replace("_", "-"): v for k, v in headers.items()})


def rate_limited(violations: list[dict[str, str]], retry_after_s: float | None) -> Reply:
    """Return a 429 with QuotaFailure and, if there is a time to wait, RetryInfo."""
    details: list[dict[str, Any]] = [{"@type": f"{RPC}.QuotaFailure", "violations": violations}]
    if retry_after_s is not None:
        details.append({"@type": f"{RPC}.RetryInfo", "retryDelay": _duration(retry_after_s)})
    message = "You exceeded your current quota, please check your plan and billing details."
    return error(429, "RESOURCE_EXHAUSTED", message, details)


def _duration(seconds: float) -> str:
    """Format a protobuf Duration for JSON: no exponent, up to nine decimal places."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _violation(quota_id: str, metric: str = "requests", value: str = "10") -> dict[str, str]:
    return {"quotaMetric": f"{FREE_TIER}_{metric}", "quotaId": quota_id, "quotaValue": value}


def _quota(*quota_ids: str, value: str = "10") -> Callable[[Fault, str], Reply]:
    violations = [_violation(quota_id, value=value) for quota_id in quota_ids]
    return lambda fault, _: rate_limited(violations, fault.retry_after_s)


def _invalid_key(_: Fault, key: str) -> Reply:
    info = {
        "@type": f"{RPC}.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com", "key": key},
    }
    # Google does not repeat the key, but a proxy in between may.
    message = f"API key not valid: {key}. Please pass a valid API key."
    return error(400, "INVALID_ARGUMENT", message, [info])


def _bad_field(_: Fault, key: str) -> Reply:
    violation = {"field": "generation_config.thinking_config", "description": "not supported"}
    details = [{"@type": f"{RPC}.BadRequest", "fieldViolations": [violation]}]
    return error(400, "INVALID_ARGUMENT", "Thinking budget is not supported for this model.", details)


def _plain(status: int, code: str, message: str) -> Callable[[Fault, str], Reply]:
    return lambda fault, key: error(status, code, message)


_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
_TOKENS = "GenerateContentInputTokensPerModelPerMinute-FreeTier"
_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"

ERRORS: dict[str, Callable[[Fault, str], Reply]] = {
    "rate_minute": _quota(_MINUTE),
    "rate_tokens": _quota(_TOKENS),
    "rate_day": _quota(_DAY),
    "rate_both": _quota(_MINUTE, _DAY),
    "rate_bare": _plain(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    "rate_header": lambda fault, _: error(
        429, "RESOURCE_EXHAUSTED", "Resource has been exhausted.", Retry_After=f"{fault.retry_after_s:.0f}"
    ),
    "no_quota": _quota(_DAY, value="0"),
    "internal": _plain(500, "INTERNAL", "An internal error has occurred. Please retry."),
    "unavailable": lambda fault, _: error(
        503, "UNAVAILABLE", "The model is overloaded.", Retry_After=f"{fault.retry_after_s:.0f}"
    ),
    "bad_gateway": lambda fault, key: Reply(502, "<html><title>502 Bad Gateway</title></html>"),
    "invalid_key": _invalid_key,
    "unauthorized": _plain(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    "gateway_unauthorized": lambda fault, key: Reply(401, "<html><title>401 Unauthorized</title></html>"),
    "forbidden": _plain(403, "PERMISSION_DENIED", "The caller does not have permission."),
    "gateway_not_found": _plain(404, "NOT_FOUND", "No route for /v1beta/models/x"),
    "unknown_model": _plain(404, "NOT_FOUND", "models/x is not found for API version v1beta."),
    "location": _plain(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
    "bad_field": _bad_field,
    "bad_image": _plain(400, "INVALID_ARGUMENT", "Unable to process input image."),
    "error_in_200": lambda fault, _: Reply(200, error(503, "UNAVAILABLE", "The model is overloaded.").body),
    "rate_in_200": lambda fault, _: Reply(200, _quota(_MINUTE)(fault, "").body),
    "not_json": lambda fault, _: Reply(200, "<html>please log in</html>"),
    "json_list": lambda fault, _: Reply(200, []),
    "json_true": lambda fault, _: Reply(200, True),
    "json_number": lambda fault, _: Reply(200, 7),
}
"""For each kind of fault, the response that replaces the answer."""


def _finish(reason: str, keep_text: bool = False) -> Callable[[dict[str, Any], Request], None]:
    def spoil(body: dict[str, Any], _: Request) -> None:
        body["candidates"][0]["finishReason"] = reason
        if reason == "CONTINUATION":
            body["candidates"][0]["continuationToken"] = "Z28gb24="
        if not keep_text:
            del body["candidates"][0]["content"]

    return spoil


def _text(change: Callable[[str], str]) -> Callable[[dict[str, Any], Request], None]:
    def spoil(body: dict[str, Any], _: Request) -> None:
        part = body["candidates"][0]["content"]["parts"][0]
        part["text"] = change(part["text"])

    return spoil


def _items(change: Callable[[list[Any]], list[Any]]) -> Callable[[dict[str, Any], Request], None]:
    def spoil(body: dict[str, Any], request: Request) -> None:
        key = list_key(request)
        part = body["candidates"][0]["content"]["parts"][0]
        part["text"] = json.dumps({key: change(json.loads(part["text"])[key])})

    return spoil


def _foreign_id(items: list[Any]) -> list[Any]:
    id_key = next(iter(items[0]))
    return [{**items[0], id_key: "zzzz"}, *items[1:]]


def _foreign_value(items: list[Any]) -> list[Any]:
    first = {k: "not in the schema" if isinstance(v, str) else v for k, v in items[0].items()}
    id_key = next(iter(first))
    return [{**first, id_key: items[0][id_key]}, *items[1:]]


def _break_rules(items: list[Any]) -> list[Any]:
    return [{**item, "age_group": "under 18", "exact_age": 99} for item in items]


def _block(body: dict[str, Any], _: Request) -> None:
    del body["candidates"]
    body["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
    body["usageMetadata"].pop("candidatesTokenCount")


def _other_model(body: dict[str, Any], _: Request) -> None:
    body["modelVersion"] = "gemini-3.8-flash"


def _thought(body: dict[str, Any], _: Request) -> None:
    body["candidates"][0]["content"]["parts"].insert(0, {"text": "Let me see...", "thought": True})
    body["usageMetadata"]["thoughtsTokenCount"] = 7


SPOILED: dict[str, Callable[[dict[str, Any], Request], None]] = {
    "truncated_json": _text(lambda text: text[: len(text) * 2 // 3]),
    "fenced": _text(lambda text: f"```json\n{text}\n```"),
    "prose": _text(lambda text: "I can't tell."),
    "wrong_ids": _items(_foreign_id),
    "missing_item": _items(lambda items: items[:-1]),
    "doubled_item": _items(lambda items: [*items, items[0]]),
    "reversed": _items(lambda items: items[::-1]),
    "foreign_value": _items(_foreign_value),
    "broken_rule": _items(_break_rules),
    "blocked_prompt": _block,
    "safety": _finish("SAFETY"),
    "recitation": _finish("RECITATION"),
    "max_tokens": _finish("MAX_TOKENS", keep_text=True),
    "continuation": _finish("CONTINUATION", keep_text=True),
    "malformed": _finish("MALFORMED_RESPONSE"),
    "empty_candidates": lambda body, _: body.update(candidates=[]),
    "no_parts": lambda body, _: body["candidates"][0].update(content={"role": "model"}),
    "other_model": _other_model,
    "thought": _thought,
}
"""For each kind of fault, the change that it makes to the JSON of a good answer."""

BATCH = ("line_error", "line_missing", "job_failed", "job_expired", "job_stuck")
"""Faults that concern whole lines or jobs of the Batch API."""

KINDS = frozenset({*ERRORS, *SPOILED, *BATCH, "hang", "drop"})
