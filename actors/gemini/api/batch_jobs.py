"""Gemini's Batch API: many requests in a file, answered within a day at half the price.

Transport alone: what waits, retries, gives up at a deadline and remembers is the caller. A job is called
after its content, so one that a process submitted before it died is found again, never submitted twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actors.attributes import AttributeSchema
from actors.errors import GeminiRefusedError, GeminiUnavailableError
from actors.gemini.api.answer import GeminiAnswer, read_answer, unusable
from actors.gemini.api.client import GeminiClient
from actors.gemini.api.packing import PackedRequest
from actors.gemini.api.request import request_body
from actors.gemini.settings import GeminiBatch, GeminiSettings, ResolvedGemini
from actors.records import Annotation

if TYPE_CHECKING:
    from google.genai import types

JobState = Literal["pending", "running", "succeeded", "failed", "cancelled", "expired"]

_MIME_TYPE = "application/jsonl"
_NAME_PREFIX = "shopframe-"
_PAGE = 100
_GONE = (403, 404)
"""What the server answers of a job or file that it no longer has, or that another project has."""

_DOWNLOAD_TIMEOUT_S = 3600
"""For a whole file of results, which may be a gigabyte."""

_AT_FAULT = frozenset({3, 9, 11, 400, 413})
"""Codes of a line that would fail again: google.rpc's INVALID_ARGUMENT, FAILED_PRECONDITION and OUT_OF_RANGE,
and their HTTP statuses. Anything else may pass."""

# fmt: off
_STATES: dict[str, JobState] = {
    "JOB_STATE_RUNNING": "running", "JOB_STATE_UPDATING": "running", "JOB_STATE_CANCELLING": "running",
    "JOB_STATE_SUCCEEDED": "succeeded", "JOB_STATE_PARTIALLY_SUCCEEDED": "succeeded",
    "JOB_STATE_FAILED": "failed", "JOB_STATE_CANCELLED": "cancelled", "JOB_STATE_EXPIRED": "expired",
}
# fmt: on
"""google-genai's `JobState` to ours; any other is pending."""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job as the server last described it.

    Attributes:
        name: The server's name, `batches/...`.
        display_name: Ours, of `display_name`.
        state: How far it is. Why a job failed the SDK does not pass on.
        responses_file: Where the answers are, once it has succeeded.
        created_at: When it was submitted, by the server's clock.
    """

    name: str
    display_name: str
    state: JobState
    responses_file: str | None
    created_at: datetime | None

    @property
    def done(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in ("pending", "running")


def group_requests(
    requests: Iterable[PackedRequest],
    limits: GeminiBatch,
    line: Callable[[PackedRequest], bytes],
    tokens: Callable[[PackedRequest], int],
) -> Iterator[tuple[PackedRequest, ...]]:
    """Requests in their order, as many to a job as its limits allow; one above them goes alone.

    Args:
        requests: To be sent.
        limits: Most requests, bytes and input tokens of a job.
        line: A request's line, as `request_line` makes it.
        tokens: A request's estimated input tokens.
    """
    group: list[PackedRequest] = []
    group_bytes = group_tokens = 0
    for request in requests:
        size, count = len(line(request)), tokens(request)
        if group and (
            len(group) == limits.max_requests
            or group_bytes + size > limits.max_file_bytes
            or group_tokens + count > limits.max_enqueued_tokens
        ):
            yield tuple(group)
            group, group_bytes, group_tokens = [], 0, 0
        group.append(request)
        group_bytes += size
        group_tokens += count
    if group:
        yield tuple(group)


def request_line(
    request: PackedRequest, settings: GeminiSettings, resolved: ResolvedGemini, schema: AttributeSchema
) -> bytes:
    """One line of a job's file, newline included: the request's key and what online would send."""
    body = request_body(request, settings, resolved, schema)
    return json.dumps({"key": request.key, "request": body}).encode() + b"\n"


def display_name(resolved: ResolvedGemini, requests: Sequence[PackedRequest], attempt: int = 0) -> str:
    """Name of a job of these requests: the same wherever and whenever it is made.

    Args:
        resolved: Model and prompt.
        requests: In the order of the file.
        attempt: Another number where the same requests are to be asked again nevertheless.
    """
    digest = hashlib.sha256(f"{resolved.fingerprint}\n{attempt}\n".encode())
    for request in requests:
        digest.update(f"{request.key}\n".encode())
    return _NAME_PREFIX + digest.hexdigest()[:40]


async def submit(client: GeminiClient, lines: Path, name: str) -> BatchJob:
    """Find the job of this name, or upload the file and make it.

    After an error it is not known whether the job was made: calling again finds it if it was.

    Args:
        client: Whose model is asked.
        lines: File of `request_line`s.
        name: Of `display_name`.

    Raises:
        GeminiRateLimitedError: The project may not enqueue as much now.
        GeminiUnavailableError, GeminiRefusedError: As `GeminiClient.ask`.
    """
    from google.genai import types

    found = await find_job(client, name)
    if found is not None:
        return found
    file = await client.call(_upload(client, lines, name), f"uploading {name}")
    model = client.resolved.model
    made = await client.call(
        client.sdk.batches.create(
            model=model,
            src=types.BatchJobSource(file_name=file.name),
            config=types.CreateBatchJobConfig(display_name=name),
        ),
        f"batch job {name} of {model}",
    )
    return _job(made)


async def find_job(client: GeminiClient, name: str) -> BatchJob | None:
    """The newest job of this name, unless it failed, expired or was cancelled.

    Raises:
        GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As `GeminiClient.ask`.
    """
    from google.genai import types

    async def search() -> BatchJob | None:
        listed = await client.sdk.batches.list(config=types.ListBatchJobsConfig(page_size=_PAGE))
        async for described in listed:
            job = _job(described)
            if job.display_name == name and job.state not in ("failed", "cancelled", "expired"):
                return job
        return None

    return await client.call(search(), "the list of batch jobs")


async def look_at(client: GeminiClient, job: BatchJob) -> BatchJob | None:
    """The job as it is now, or None if the server doesn't have it, or not for this key.

    Raises:
        GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As `GeminiClient.ask`.
    """
    try:
        return _job(await client.call(client.sdk.batches.get(name=job.name), job.name))
    except GeminiRefusedError as error:
        if error.code in _GONE:
            return None
        raise


async def cancel(client: GeminiClient, job: BatchJob) -> None:
    """Ask for the job's end; it may succeed all the same, so look at it again.

    Raises:
        GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As `GeminiClient.ask`.
    """
    await client.call(client.sdk.batches.cancel(name=job.name), job.name)


async def download(client: GeminiClient, job: BatchJob, target: Path) -> bool:
    """Write the file of answers of a job that succeeded.

    Args:
        client: Of the project that the job belongs to.
        job: With a `responses_file`.
        target: Overwritten.

    Returns:
        False if the server no longer has the file: it keeps files for two days
        (ai.google.dev/gemini-api/docs/files).

    Raises:
        GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As `GeminiClient.ask`.
        ValueError: The job has no file of answers.
    """
    from google.genai import types

    if job.responses_file is None:
        raise ValueError(f"{job.name} has no file of answers; it is {job.state}")
    options = types.HttpOptions(timeout=_DOWNLOAD_TIMEOUT_S * 1000)
    downloading = client.sdk.files.download(
        file=job.responses_file,
        destination=str(target),
        config=types.DownloadFileConfig(http_options=options),
    )
    try:
        await client.call(downloading, job.responses_file)
    except GeminiRefusedError as error:
        if error.code in _GONE:
            return False
        raise
    return True


def read_results(
    lines: Iterable[bytes],
    requests: Sequence[PackedRequest],
    schema: AttributeSchema,
    scrub: Callable[[str], str],
) -> Iterator[tuple[PackedRequest, GeminiAnswer]]:
    """Answers of a job, joined with its requests by key, as `GeminiClient.ask` would have given them.

    Where a line holds an error that may pass, or there is no line, the crops are pending again.

    Args:
        lines: Of the downloaded file, in any order.
        requests: What was submitted.
        schema: What each answer must fit.
        scrub: Takes secrets out of the server's words: `GeminiClient.scrub`.

    Returns:
        Every request once: first those that have a line, in the order of the file.
    """
    waiting = {request.key: request for request in requests}
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        key = found.get("key") if isinstance(found, dict) else None
        request = waiting.pop(key, None) if isinstance(key, str) else None
        if request is not None:
            yield request, _result(found, request, schema, scrub)
    for request in waiting.values():
        yield request, _pending(request, "the batch job brought no answer")


async def _upload(client: GeminiClient, lines: Path, name: str) -> types.File:
    from google.genai import types

    try:
        return await client.sdk.files.upload(
            file=lines, config=types.UploadFileConfig(mime_type=_MIME_TYPE, display_name=name)
        )
    except (KeyError, ValueError):
        # So the SDK says that a server gave no place to upload to, or ended the upload early.
        raise GeminiUnavailableError(f"uploading {name}: Gemini did not take the file") from None


def _result(
    found: dict[str, Any], request: PackedRequest, schema: AttributeSchema, scrub: Callable[[str], str]
) -> GeminiAnswer:
    response = found.get("response")
    if isinstance(response, dict):
        return read_answer(response, request, schema)
    error = found.get("error")
    described = error if isinstance(error, dict) else {}
    message = scrub(str(described.get("message") or "no message"))
    reason = f"the batch job answered {described.get('code')}: {message}"
    if described.get("code") in _AT_FAULT:
        return unusable(request, "error", reason)
    return _pending(request, reason)


def _pending(request: PackedRequest, reason: str) -> GeminiAnswer:
    return GeminiAnswer({crop.key: Annotation("pending", reason) for crop in request.crops})


def _job(described: types.BatchJob) -> BatchJob:
    state = described.state.value if described.state else ""
    return BatchJob(
        described.name or "",
        described.display_name or "",
        _STATES.get(state, "pending"),
        described.dest.file_name if described.dest else None,
        described.create_time,
    )
