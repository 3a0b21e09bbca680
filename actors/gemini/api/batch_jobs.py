"""Access to Gemini's Batch API, which answers a file of requests within a day at half the price.

This module only talks to the server. The caller waits, retries, gives up at a deadline and keeps the
records. The name of a job is derived from its content, so a job that a process submitted before it died
is found again and isn't submitted twice.
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
from actors.gemini.api.answer import GeminiAnswer, read_answer, refused
from actors.gemini.api.client import GeminiClient
from actors.gemini.api.packing import PackedRequest
from actors.gemini.api.request import request_body
from actors.gemini.batch_settings import GeminiBatch
from actors.gemini.settings import GeminiSettings, ResolvedGemini
from actors.plain_text import plain_text
from actors.records import LONGEST_REASON, Annotation

if TYPE_CHECKING:
    from google.genai import types

JobState = Literal["pending", "running", "succeeded", "failed", "cancelled", "expired"]

_MIME_TYPE = "application/jsonl"
_NAME_PREFIX = "shopframe-"
_PAGE = 100
_GONE = (403, 404)
"""HTTP statuses for a job or file that the server no longer has, or that belongs to another project."""

_DOWNLOAD_TIMEOUT_S = 3600
"""Timeout for downloading a whole file of results, which may be a gigabyte."""

_AT_FAULT = frozenset({3, 9, 11, 400, 413})
"""Error codes of a result line whose request would fail again: google.rpc's INVALID_ARGUMENT,
FAILED_PRECONDITION and OUT_OF_RANGE, and their HTTP statuses. Any other error may be temporary."""

# fmt: off
_STATES: dict[str, JobState] = {
    "JOB_STATE_RUNNING": "running", "JOB_STATE_UPDATING": "running", "JOB_STATE_CANCELLING": "running",
    "JOB_STATE_SUCCEEDED": "succeeded", "JOB_STATE_PARTIALLY_SUCCEEDED": "succeeded",
    "JOB_STATE_FAILED": "failed", "JOB_STATE_CANCELLED": "cancelled", "JOB_STATE_EXPIRED": "expired",
}
# fmt: on
"""Maps google-genai's `JobState` to `JobState`. Any other state counts as pending."""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job as the server last described it.

    Attributes:
        name: The server's name of the job, `batches/...`.
        display_name: Shopframe's name of the job, from `display_name`.
        state: Progress of the job. The SDK doesn't report why a job failed.
        responses_file: Name of the file of answers, once the job has ended. A job that was cancelled or
            has expired may have one too, with the answers that it had by then.
        created_at: When the job was submitted, by the server's clock.
    """

    name: str
    display_name: str
    state: JobState
    responses_file: str | None
    created_at: datetime | None

    @property
    def done(self) -> bool:
        """Whether the job has ended, successfully or not."""
        return self.state not in ("pending", "running")


def group_requests(
    requests: Iterable[PackedRequest],
    limits: GeminiBatch,
    line: Callable[[PackedRequest], bytes],
    tokens: Callable[[PackedRequest], int],
) -> Iterator[tuple[PackedRequest, ...]]:
    """Group requests into jobs, in order, with as many requests per job as the limits allow.

    A request that exceeds the limits by itself gets a job of its own.

    Args:
        requests: Requests to send.
        limits: Maximum number of requests, bytes and input tokens per job.
        line: Returns the line of a request, as `request_line` does.
        tokens: Returns the estimated input tokens of a request.
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
    """Return a line of a job's file, with its newline: the request's key and the body sent in online mode."""
    body = request_body(request, settings, resolved, schema)
    return json.dumps({"key": request.key, "request": body}).encode() + b"\n"


def display_name(resolved: ResolvedGemini, requests: Sequence[PackedRequest], attempt: int = 0) -> str:
    """Return the name of a job of these requests, which depends on the arguments alone.

    Args:
        resolved: Model and prompt. Both are part of the name.
        requests: Requests in the order of the file.
        attempt: Pass a different number to submit the same requests again as a new job.
    """
    digest = hashlib.sha256(f"{resolved.fingerprint} {resolved.model}\n{attempt}\n".encode())
    for request in requests:
        digest.update(f"{request.key}\n".encode())
    return _NAME_PREFIX + digest.hexdigest()[:40]


async def submit(client: GeminiClient, lines: Path, name: str) -> BatchJob:
    """Find the job of this name, or upload the file and create the job.

    After an error, it is unknown whether the job was created. If it was, calling again finds it.

    Args:
        client: Client for the model to use.
        lines: File of lines from `request_line`.
        name: Name of the job, from `display_name`.

    Raises:
        GeminiRateLimitedError: The project may not enqueue this much now.
        GeminiUnavailableError, GeminiRefusedError: As in `GeminiClient.ask`.
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


async def find_job(client: GeminiClient, name: str, ended: bool = False) -> BatchJob | None:
    """Return the newest job of this name.

    Args:
        client: Client of the project.
        name: Name of the job, from `display_name`.
        ended: Whether the job may have failed, expired or been cancelled.

    Raises:
        GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As in `GeminiClient.ask`.
    """
    from google.genai import types

    async def search() -> BatchJob | None:
        listed = await client.sdk.batches.list(config=types.ListBatchJobsConfig(page_size=_PAGE))
        async for described in listed:
            job = _job(described)
            if job.display_name == name and (ended or job.state not in ("failed", "cancelled", "expired")):
                return job
        return None

    return await client.call(search(), "the list of batch jobs")


async def look_at(client: GeminiClient, job: BatchJob) -> BatchJob | None:
    """Return the job's current state, or None if the server has no such job for this API key.

    Raises:
        GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As in `GeminiClient.ask`.
    """
    try:
        return _job(await client.call(client.sdk.batches.get(name=job.name), job.name))
    except GeminiRefusedError as error:
        if error.code in _GONE:
            return None
        raise


async def cancel(client: GeminiClient, job: BatchJob) -> None:
    """Ask the server to cancel the job.

    The job may still succeed, so call `look_at` afterwards.

    Raises:
        GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As in `GeminiClient.ask`.
    """
    await client.call(client.sdk.batches.cancel(name=job.name), job.name)


async def download(client: GeminiClient, job: BatchJob, target: Path) -> bool:
    """Download the file of answers of a job that has ended.

    Args:
        client: Client of the project that the job belongs to.
        job: A job with a `responses_file`.
        target: Path to write the file to; an existing file is overwritten.

    Returns:
        False if the server no longer has the file. The server keeps files for two days
        (ai.google.dev/gemini-api/docs/files).

    Raises:
        GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As in `GeminiClient.ask`.
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


async def delete_files(client: GeminiClient, name: str, job: BatchJob | None) -> None:
    """Delete the files that were uploaded for a job of this name, and its file of answers.

    Raises:
        GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError: As in `GeminiClient.ask`.
    """
    from google.genai import types

    async def uploaded() -> list[str]:
        listed = await client.sdk.files.list(config=types.ListFilesConfig(page_size=_PAGE))
        return [str(file.name) async for file in listed if file.display_name == name]

    files = await client.call(uploaded(), "the list of files")
    if job is not None and job.responses_file is not None:
        files.append(job.responses_file)
    for file in files:
        try:
            await client.call(client.sdk.files.delete(name=file), file)
        except GeminiRefusedError as error:
            if error.code not in _GONE:
                raise


def read_results(
    lines: Iterable[bytes],
    requests: Sequence[PackedRequest],
    schema: AttributeSchema,
    scrub: Callable[[str], str],
) -> Iterator[tuple[PackedRequest, GeminiAnswer]]:
    """Join the answers of a job with its requests by key, in the form that `GeminiClient.ask` returns.

    The crops of a request are `pending` if its line is missing or holds an error that may be temporary.

    Args:
        lines: Lines of the downloaded file, in any order.
        requests: The requests that were submitted.
        schema: The schema that each answer must match.
        scrub: Removes secrets from the server's messages; see `GeminiClient.scrub`.

    Returns:
        Each request once. Those that have a line come first, in the order of the file.
    """
    waiting = {request.key: request for request in requests}
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        key = found.get("key") if isinstance(found, dict) else None
        request = waiting.pop(key, None) if isinstance(key, str) else None
        if request is not None:
            yield request, _result(found, request, schema, scrub)
    for request in waiting.values():
        yield request, _pending(request, "the batch job returned no answer")


async def _upload(client: GeminiClient, lines: Path, name: str) -> types.File:
    from google.genai import types

    try:
        return await client.sdk.files.upload(
            file=lines, config=types.UploadFileConfig(mime_type=_MIME_TYPE, display_name=name)
        )
    except (KeyError, ValueError):
        # The SDK raises these errors if the server gave no upload URL or ended the upload early.
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
    code = described.get("code")
    reason = plain_text(f"the batch job answered {code}: {message}", LONGEST_REASON)
    if isinstance(code, int) and code in _AT_FAULT:
        return refused(request, reason)
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
