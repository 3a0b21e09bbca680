"""Interpret Gemini's error responses.

An error means to wait, to try again later, to stop, or that this one request is at fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from actors.errors import (
    GeminiKeyError,
    GeminiModelError,
    GeminiRateLimitedError,
    GeminiRefusedError,
    GeminiUnavailableError,
)
from actors.gemini.api.refused_arguments import remedy_of
from actors.plain_text import plain_text

GeminiError = GeminiRefusedError | GeminiRateLimitedError | GeminiUnavailableError


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal of one request because of its content. Other requests may be answered.

    Attributes:
        reason: The server's message, preceded by the name of what was requested.
    """

    reason: str


_LONGEST_MESSAGE = 300

_KEY_REASONS = frozenset({"API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED", "API_KEY_IP_ADDRESS_BLOCKED"})
"""Values of `ErrorInfo.reason` for a key that doesn't work. Their status is 400 or 403."""

_KEY_STATUSES = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
"""Google's statuses for a key that is unknown or may not be used. A 401 or 403 of a gateway has neither, and
need not be about the key: a gateway may permit some paths only."""

_MODEL_NAME = re.compile(r"(?<![\w/])models/")
"""Google names a model that it doesn't have in this way. A gateway may name its path."""

_REMEDIES: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "set GEMINI_API_KEY to a valid key (aistudio.google.com/apikey)",
    HTTPStatus.PAYMENT_REQUIRED: "check the project's billing",
    HTTPStatus.FORBIDDEN: "the key in GEMINI_API_KEY may not use this model or API; check its restrictions",
    HTTPStatus.NOT_FOUND: "check gemini.model, gemini.base_url and gemini.api_version",
}
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, 425, 499})
"""4xx statuses that aren't the request's fault and may be temporary; 499 is Google's CANCELLED."""

_DURATION = re.compile(r"^(\d{1,9}(?:\.\d+)?)s$")


def meaning_of(
    code: int, details: Any, headers: Mapping[str, str], asked: str, scrub: Scrubber
) -> GeminiError | Refusal:
    """Convert an error response to the error to raise or to a refusal.

    Args:
        code: HTTP status, or the code in the body of a response with status 200.
        details: The error's JSON. Usually `{"error": {"code", "message", "status", "details"}}`, but any
            value is accepted.
        headers: Headers of the response.
        asked: What was requested, to name in the message.
        scrub: Removes secrets from text.

    Returns:
        An error to raise, or a refusal if only this request is at fault.
    """
    error = _error_of(details)
    # Remedies follow the message in the same sentence.
    message = _shown(scrub(" ".join(str(error.get("message") or "no message").split()))).rstrip(".")
    status = _shown(scrub(str(error.get("status") or "")))
    said = f"{asked}: Gemini answered {code} {status}".rstrip() + f": {message}"
    retry_after_s = _retry_after_s(error, headers)
    if code == HTTPStatus.TOO_MANY_REQUESTS:
        return _rate_limit(said, error, retry_after_s)
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR or code in _PASSING or code < HTTPStatus.BAD_REQUEST:
        return GeminiUnavailableError(said, retry_after_s)
    if any(str(info.get("reason")) in _KEY_REASONS for info in _details(error, "ErrorInfo")):
        return GeminiKeyError(f"{said}; {_REMEDIES[HTTPStatus.UNAUTHORIZED]}", code, False)
    if str(error.get("status")) in _KEY_STATUSES:
        return GeminiKeyError(f"{said}; {_REMEDIES.get(code, _REMEDIES[HTTPStatus.FORBIDDEN])}", code, False)
    if code == HTTPStatus.NOT_FOUND and error.get("status") == "NOT_FOUND" and _MODEL_NAME.search(message):
        return GeminiModelError(f"{said}; {_REMEDIES[HTTPStatus.NOT_FOUND]}", code, False)
    if code in _REMEDIES:
        return GeminiRefusedError(f"{said}; {_REMEDIES[HTTPStatus(code)]}", code, False)
    if error.get("status") == "FAILED_PRECONDITION":
        return GeminiRefusedError(f"{said}; check the project's billing and region", code)
    fields = [_shown(str(v.get("field"))) for v in _violations(error, "BadRequest", "fieldViolations")]
    if any(not field.startswith("contents") for field in fields):
        # Fields outside the contents are the same in every request, so every request would be refused.
        return GeminiRefusedError(f"{said} ({', '.join(fields)}); {remedy_of(f'{message} {fields}')}", code)
    return Refusal(said)


class Scrubber:
    """Removes a secret from text."""

    def __init__(self, secret: str) -> None:
        self._pattern = re.compile(re.escape(secret)) if secret else None

    def __call__(self, text: str) -> str:
        """Return the text with the secret replaced by ***."""
        return self._pattern.sub("***", text) if self._pattern else text

    def __repr__(self) -> str:
        return "Scrubber(***)"


def _shown(text: str) -> str:
    return plain_text(text, _LONGEST_MESSAGE)


def _rate_limit(said: str, error: Mapping[str, Any], retry_after_s: float | None) -> GeminiError:
    violations = list(_violations(error, "QuotaFailure", "violations"))
    if any(str(violation.get("quotaValue")) == "0" for violation in violations):
        return GeminiRefusedError(
            f"{said}; the project has no quota at all for this model: choose another gemini.model or plan",
            HTTPStatus.TOO_MANY_REQUESTS,
        )
    quota_ids = [_shown(str(violation.get("quotaId") or "")) for violation in violations]
    # The retry delay doesn't tell the two kinds of limit apart: it can be less than a minute for both.
    of_day = [quota_id for quota_id in quota_ids if "PerDay" in quota_id]
    quota_id = next(iter(of_day or quota_ids), "") or None
    if quota_id:
        said += f" ({quota_id})"
    return GeminiRateLimitedError(said, bool(of_day), retry_after_s, quota_id)


def _retry_after_s(error: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait, if the server gave them.

    RetryInfo gives fractional seconds. The Retry-After header gives whole seconds or a date.
    """
    for info in _details(error, "RetryInfo"):
        matched = _DURATION.match(str(info.get("retryDelay")))
        if matched:
            return float(matched.group(1))
    value = next((v.strip() for name, v in headers.items() if name.lower() == "retry-after"), "")
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        return None
    return max(0.0, (when - _server_time(headers)).total_seconds())


def _server_time(headers: Mapping[str, str]) -> datetime:
    value = next((v for name, v in headers.items() if name.lower() == "date"), "")
    try:
        return parsedate_to_datetime(value).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)


def _error_of(details: Any) -> Mapping[str, Any]:
    if isinstance(details, list) and details:
        details = details[0]
    if not isinstance(details, Mapping):
        return {"message": details} if isinstance(details, str) else {}
    error = details.get("error", details)
    return error if isinstance(error, Mapping) else {"message": error}


def _details(error: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith(f".{kind}"):
            yield detail


def _violations(error: Mapping[str, Any], kind: str, key: str) -> Iterator[Mapping[str, Any]]:
    for detail in _details(error, kind):
        violations = detail.get(key)
        for violation in violations if isinstance(violations, list) else []:
            if isinstance(violation, Mapping):
                yield violation
