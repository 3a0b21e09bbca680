"""Exceptions that stores raise, and the messages about them for the user."""

from __future__ import annotations

import errno

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

STORAGE_ERRORS = (OSError, BotoCoreError, ClientError, aiohttp.ClientError)
"""Exceptions of a store that can't be reached or refuses a request. Not all of them are OSErrors."""

THROTTLED = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
)
"""Error codes with which stores ask for fewer requests."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)

_REFUSALS = frozenset(
    {
        "403",
        "401",
        "AccessDenied",
        "AllAccessDisabled",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
    }
)


def is_unsupported(error: OSError) -> bool:
    """Return whether a store refused a conditional write because it can't do one, and not for its outcome.

    S3-compatible stores answer 501 to a condition that they don't know. Disks without hard links, such as
    exFAT and many network mounts, refuse `link`.
    """
    code = error_code(error)
    return error.errno in _NO_LINKS if code is None else code in ("NotImplemented", "501")


def storage_error_text(error: BaseException) -> str:
    """Return one line that says why a store failed and what to do about it. It contains no secrets."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NoCredentialsError | PartialCredentialsError):
            return (
                "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or storage.anon=true for a public bucket"
            )
        if isinstance(cause, ClientError):
            return _answer_text(str(cause.response.get("Error", {}).get("Code", "")))
        if isinstance(cause, BotoCoreError | aiohttp.ClientError):
            return f"the store can't be reached: {type(cause).__name__}; check storage.endpoint_url"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, PermissionError):
        return "permission denied"
    return f"{type(error).__name__}: {error}"


def _answer_text(code: str) -> str:
    if code in _REFUSALS:
        return (
            f"the store refused the credentials or the permission ({code}): check "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
        )
    if code == "NoSuchBucket":
        return "there is no such bucket"
    return f"the store answered with {code or 'an error'}"


def error_code(error: BaseException) -> str | None:
    """Return the error code in the answer of S3, or None if the error didn't come from S3."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ClientError):
            return str(cause.response.get("Error", {}).get("Code", ""))
        cause = cause.__cause__ or cause.__context__
    return None
