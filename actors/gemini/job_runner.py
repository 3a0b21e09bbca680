"""Run one job of the Batch API: submit it, wait for its end, read its answers, and delete its files."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from actors.errors import GeminiRateLimitedError, GeminiRefusedError, GeminiUnavailableError
from actors.gemini.api.answer import GeminiAnswer
from actors.gemini.api.batch_jobs import (
    BatchJob,
    cancel,
    delete_files,
    download,
    find_job,
    look_at,
    read_results,
    request_line,
    submit,
)
from actors.gemini.api.client import GeminiClient
from actors.gemini.api.packing import PackedRequest
from actors.gemini.api.tokens import cost_usd
from actors.gemini.batch_records import BatchRecord
from actors.gemini.protocol import Progress
from actors.gemini.quota.quota import Clock
from actors.gemini.settings import GeminiSettings
from actors.storage.request_counts import counted_so_far

log = logging.getLogger(__name__)

_CANCEL_POLLS = 10
"""How often a job is looked at after its cancellation, until it is left to the next run."""

_Result = TypeVar("_Result")


class JobRunner:
    """Runs jobs. Calls to the server that fail for a temporary reason are repeated `gemini.retries` times.

    Args:
        settings: Settings of the requests, and the limits of a job.
        client: Client for the model to use.
        clock: Clock for polls and deadlines.
    """

    def __init__(self, settings: GeminiSettings, client: GeminiClient, clock: Clock) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._steps = 0
        self._waits_until = 0.0

    def progress(self) -> Progress:
        """Return how often jobs were looked at, and how long it is until the next time."""
        wait_s = max(0.0, self._waits_until - self._clock.now())
        reason = "batch job" if wait_s else ""
        traffic = self._client.traffic.so_far()
        return Progress(self._steps, wait_s, reason, traffic=traffic, store_requests=counted_so_far())

    async def find(self, record: BatchRecord) -> BatchJob | None:
        """Return the server's job of a record, whatever its state, or None if it has none."""
        return await self._patiently(partial(find_job, self._client, record.name, ended=True))

    async def submit(self, record: BatchRecord, requests: Sequence[PackedRequest]) -> BatchJob:
        """Submit a job that is recorded and was never submitted."""
        client = self._client
        with tempfile.TemporaryDirectory(prefix="shopframe-batch-") as folder:
            lines = Path(folder, "requests.jsonl")
            with lines.open("wb") as file:
                file.writelines(
                    request_line(request, self._settings, client.resolved, client.schema)
                    for request in requests
                )
            return await self._patiently(partial(submit, client, lines, record.name))

    def is_late(self, record: BatchRecord) -> bool:
        """Return whether a job has passed its deadline."""
        begun = datetime.fromisoformat(record.created_at).timestamp()
        return self._clock.now() >= begun + self._settings.batch.deadline_s

    async def wait(self, record: BatchRecord, job: BatchJob) -> BatchJob | None:
        """Wait until a job has ended, and cancel it at its deadline.

        Returns:
            The job, or None if the server no longer has it. It has not ended if its cancellation takes long.
        """
        found: BatchJob | None = job
        while found is not None and not found.done and not self.is_late(record):
            await self._pause()
            found = await self._look(found)
        if found is None or found.done:
            return found
        await self._patiently(partial(cancel, self._client, found))
        found = await self._look(found)
        for _ in range(_CANCEL_POLLS):
            if found is None or found.done:
                break
            await self._pause()
            found = await self._look(found)
        return found

    async def results(
        self, job: BatchJob, requests: Sequence[PackedRequest]
    ) -> list[tuple[PackedRequest, GeminiAnswer]]:
        """Return the answers of a job that has ended, as far as it has any, and the requests without one."""
        if job.responses_file is None:
            return []
        with tempfile.TemporaryDirectory(prefix="shopframe-batch-") as folder:
            target = Path(folder, "responses.jsonl")
            if not await self._patiently(partial(download, self._client, job, target)):
                log.warning("batch job %s: the server no longer has its answers", job.display_name)
                return []
            with target.open("rb") as lines:
                found = list(read_results(lines, requests, self._client.schema, self._client.scrub))
        for _, answer in found:
            usd = cost_usd(answer.usage, self._settings, batch=True)
            self._client.traffic.answered(answer, usd)
        return found

    async def delete_files(self, record: BatchRecord, job: BatchJob | None) -> None:
        """Delete the files of a job, which show people. Google would delete them after two days."""
        try:
            await self._patiently(partial(delete_files, self._client, record.name, job))
        except (GeminiRateLimitedError, GeminiUnavailableError, GeminiRefusedError) as error:
            log.warning("batch job %s: its files can't be deleted: %s", record.name, error)

    async def _look(self, job: BatchJob) -> BatchJob | None:
        found = await self._patiently(partial(look_at, self._client, job))
        self._steps += 1
        return found

    async def _pause(self) -> None:
        self._waits_until = self._clock.now() + self._settings.batch.poll_s
        await self._clock.sleep(self._settings.batch.poll_s)

    async def _patiently(self, call: Callable[[], Awaitable[_Result]]) -> _Result:
        attempts = AsyncRetrying(
            retry=retry_if_exception_type((GeminiUnavailableError, GeminiRateLimitedError)),
            wait=wait_random_exponential(multiplier=1, max=self._settings.retry_max_wait_s),
            stop=stop_after_attempt(self._settings.retries + 1),
            sleep=self._clock.sleep,
            reraise=True,
        )
        result: _Result = await attempts(call)
        return result
