"""Batch mode, which sends the backlog as jobs of the Batch API that outlive the run that submitted them.

The record of a job is written to the bucket before the job is submitted, and its answers are written to the
journal before the record is closed. If a run is killed at any point, the next run finds the open job, submits
it if the server doesn't have it, and goes on. The same job is never submitted twice.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from actors.errors import (
    CropRestoreError,
    GeminiRateLimitedError,
    GeminiRefusedError,
    GeminiUnavailableError,
    ShardUnavailableError,
    ShopframeError,
    StoreError,
)
from actors.fingerprint import crop_sha256
from actors.gemini.answer_journal import JournalEntry, write_journal
from actors.gemini.api.answer import GeminiAnswer
from actors.gemini.api.batch_jobs import (
    BatchJob,
    cancel,
    display_name,
    download,
    find_job,
    group_requests,
    look_at,
    read_results,
    request_line,
    submit,
)
from actors.gemini.api.client import GeminiClient
from actors.gemini.api.packing import Crop, PackedRequest, halves, pack
from actors.gemini.api.refused_arguments import remedy_of
from actors.gemini.api.shown_crops import shown_crop
from actors.gemini.api.tokens import cost_usd, estimate_input_tokens
from actors.gemini.api.unusable_answers import UnusableAnswers
from actors.gemini.backlog.claims import BEAT_S, Claims
from actors.gemini.backlog.drain import ShardDrainer
from actors.gemini.backlog.pending_shard import answered
from actors.gemini.batch_records import (
    BatchCrop,
    BatchRecord,
    close_batch,
    create_batch,
    open_batches,
    read_batch,
)
from actors.gemini.egress_log import egress_of, record_egress
from actors.gemini.protocol import Annotator, Answers, AskedCrop, DrainTask, Stop
from actors.gemini.quota.quota import Clock, SystemClock
from actors.gemini.settings import GeminiSettings, ResolvedGemini
from actors.storage import layout
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

log = logging.getLogger(__name__)

_CROPS_IN_MEMORY = 20_000
"""Number of crops that are packed together: they take about 400 MB of memory and fill many requests."""

_Result = TypeVar("_Result")


@dataclass(slots=True)
class BatchRun:
    """What batch mode did in a run.

    Attributes:
        unanswered: Entries of crops whose line brought an error, by crop digest.
        stop: Why no more jobs were submitted, if some requests were left.
    """

    unanswered: dict[str, JournalEntry] = field(default_factory=dict)
    stop: Stop | None = None


class BatchAnnotator(Annotator):
    """Works off tasks through the Batch API, one job at a time.

    Args:
        settings: Settings of the requests, and the limits of a job.
        drainer: Loads the persons of a shard that still wait for an answer.
        holder: Name of the run in its claims.
        clock: Clock for polls and deadlines.

    Raises:
        ConfigError: GEMINI_API_KEY is not set.
    """

    waits_for_all: ClassVar[bool] = True
    """A job is made only when the run's own shards are done, because a larger job is cheaper per person."""

    def __init__(
        self, settings: GeminiSettings, drainer: ShardDrainer, holder: str, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._drainer = drainer
        self._store: ObjectStore = drainer.committer.store
        self._claims = Claims(self._store, holder)
        self._clock: Clock = clock or SystemClock()
        self._client = GeminiClient(settings, drainer.resolved, drainer.schema)
        self._asked: dict[str, AskedCrop] = {}
        self._shards_of: dict[str, list[str]] = {}
        self._unanswered: dict[str, JournalEntry] = {}
        self._spent_usd = 0.0
        self._has_answered = False
        self._unusable = UnusableAnswers()

    async def begin(self) -> None:
        """Do nothing, because each run starts a new batch annotator of its own."""

    async def ask(self, crops: Sequence[AskedCrop]) -> Answers:
        """Return the errors that the jobs brought for these crops; the answers are in the journal."""
        digests = [crop_sha256(asked.crop.jpeg) for asked in crops]
        return Answers({d: self._unanswered[d] for d in digests if d in self._unanswered}, None)

    async def finish(self) -> None:
        """End the claims of this annotator when there is nothing more to ask."""
        self._claims.close()

    async def collect(self, tasks: Sequence[DrainTask]) -> Stop | None:
        """Finish the open jobs, then ask about all persons that still wait for an answer.

        Returns when the last job has ended or can't go on. By then its answers are in the journal.
        """
        done = BatchRun()
        try:
            await self._run(tasks, done)
        except GeminiRefusedError as error:
            done.stop = Stop("refused", str(error))
        except (GeminiRateLimitedError, GeminiUnavailableError) as error:
            done.stop = Stop("unreachable", f"{error}; run again later")
        except (ShopframeError, *STORAGE_ERRORS) as error:
            log.exception("batch mode stopped because of an error")
            done.stop = Stop("unreachable", self._client.scrub(storage_error_text(error)))
        self._unanswered |= done.unanswered
        return done.stop

    async def _run(self, tasks: Sequence[DrainTask], done: BatchRun) -> None:
        is_open = open_batches(self._store, self._drainer.resolved.question)
        for path in await self._claim(layout.batch_path(record.name) for record in is_open):
            record = read_batch(self._store, path)
            if record.closed is None:
                await self._finish(record, self._rebuild(record), done)
            else:  # The run that held the claim has closed the job in the meantime.
                self._claims.release(path)
        free = set(await self._claim([task.shard_id for task in tasks]))
        tasks = [task for task in tasks if task.shard_id in free]
        for crops in _slices(self._waiting(tasks), _CROPS_IN_MEMORY):
            self._asked = {asked.crop.key: asked for asked in crops}
            shown = (Crop(a.crop.key, shown_crop(a.crop.jpeg, self._settings)) for a in crops)
            requests = list(pack(shown, self._settings.persons_per_request, self._settings.seed))
            while requests and done.stop is None:
                requests = await self._ask(requests, done)

    async def _claim(self, names: Iterable[str]) -> list[str]:
        """Return the names that no other run works on. This takes some seconds if another run has died."""
        unknown, ours = list(names), []
        while unknown:
            verdicts = dict(zip(unknown, map_ahead(self._claims.take, unknown), strict=True))
            ours += [name for name, verdict in verdicts.items() if verdict == "ours"]
            unknown = [name for name, verdict in verdicts.items() if verdict == "unknown"]
            if unknown:
                await asyncio.sleep(BEAT_S)
        return ours

    def _waiting(self, tasks: Sequence[DrainTask]) -> Iterator[AskedCrop]:
        """Yield the crops without an answer, equal ones only once; all their shards get the answer."""
        self._shards_of = {}
        for task in tasks:
            try:
                _, shard = self._drainer.load(task)
            except (ShardUnavailableError, StoreError) as error:
                # The same error is reported when the shard is to be committed.
                log.warning("batch mode skips shard %s: %s", task.shard_id, error)
                continue
            chosen = None if task.chosen is None else frozenset(task.chosen)
            for _, crop in shard.waiting(chosen):
                shards = self._shards_of.get(crop_sha256(crop.jpeg))
                if shards is None:
                    self._shards_of[crop_sha256(crop.jpeg)] = [task.shard_id]
                    yield AskedCrop(task.shard_id, crop)
                elif task.shard_id not in shards:
                    shards.append(task.shard_id)

    async def _ask(self, requests: Sequence[PackedRequest], done: BatchRun) -> list[PackedRequest]:
        """Run jobs for these requests. Returns the halves of the requests that have to be asked again."""
        settings, drainer = self._settings, self._drainer
        groups = group_requests(
            requests,
            settings.batch,
            lambda request: request_line(request, settings, drainer.resolved, drainer.schema),
            lambda request: estimate_input_tokens(request, settings, drainer.resolved, drainer.schema),
        )
        again: list[PackedRequest] = []
        for group in groups:
            if done.stop is not None:
                break
            limit = settings.max_cost_usd
            if limit is not None and self._spent_usd >= limit:
                done.stop = Stop("budget", f"gemini.max_cost_usd={limit:g} is spent")
                break
            record = await self._begin(group)
            again += await self._finish(record, group, done)
        return again

    # --- one job ---

    async def _begin(self, group: Sequence[PackedRequest]) -> BatchRecord:
        """Write the record of a job, under the first name that no earlier job with the same requests has."""
        attempt = 0
        while self._store.exists(layout.batch_path(display_name(self._drainer.resolved, group, attempt))):
            attempt += 1
        record = BatchRecord(
            name=display_name(self._drainer.resolved, group, attempt),
            fingerprint=self._drainer.resolved.fingerprint,
            created_at=datetime.fromtimestamp(self._clock.now(), UTC).isoformat(),
            seed=self._settings.seed,
            model=self._drainer.resolved.model,
            requests=tuple(
                tuple(
                    BatchCrop(
                        shard_id=self._asked[crop.key].shard_id,
                        key=crop.key,
                        crop_sha256=crop_sha256(self._asked[crop.key].crop.jpeg),
                    )
                    for crop in request.crops
                )
                for request in group
            ),
        )
        # The claim comes before the record, so that another run that finds the record leaves the job alone.
        await self._claim([layout.batch_path(record.name)])
        create_batch(self._store, record)
        sent = [self._asked[crop.key] for request in group for crop in request.crops]
        egress = egress_of(record.name, sent, self._drainer.resolved.model, self._clock.now())
        record_egress(self._store, egress)
        return record

    async def _finish(
        self, record: BatchRecord, requests: Sequence[PackedRequest], done: BatchRun
    ) -> list[PackedRequest]:
        """Wait for the end of a job. Returns the halves of the requests that have to be asked again."""
        job = await self._submitted(record, requests)
        deadline = datetime.fromisoformat(record.created_at).timestamp() + self._settings.batch.deadline_s
        while job is not None and not job.done and self._clock.now() < deadline:
            await self._clock.sleep(self._settings.batch.poll_s)
            job = await self._patiently(partial(look_at, self._client, job))
        if job is not None and not job.done:
            await self._patiently(partial(cancel, self._client, job))
            job = await self._patiently(partial(look_at, self._client, job))
        again: list[PackedRequest] = []
        outcome = "lost" if job is None else job.state
        if job is not None and job.state == "succeeded":
            again = await self._collect(job, self._resolved_for(record), requests, done)
        else:
            log.warning("batch job %s is %s; its persons are pending again", record.name, outcome)
        close_batch(self._store, record, outcome)
        self._claims.release(layout.batch_path(record.name))
        return again

    async def _submitted(self, record: BatchRecord, requests: Sequence[PackedRequest]) -> BatchJob | None:
        if not requests:
            return None
        if self._resolved_for(record).model != self._drainer.resolved.model:
            # The job of another model is only finished, never submitted.
            return await self._patiently(partial(find_job, self._client, record.name))
        with tempfile.TemporaryDirectory(prefix="shopframe-batch-") as folder:
            lines = Path(folder, "requests.jsonl")
            with lines.open("wb") as file:
                file.writelines(
                    request_line(r, self._settings, self._drainer.resolved, self._drainer.schema)
                    for r in requests
                )
            return await self._patiently(partial(submit, self._client, lines, record.name))

    async def _collect(
        self, job: BatchJob, resolved: ResolvedGemini, requests: Sequence[PackedRequest], done: BatchRun
    ) -> list[PackedRequest]:
        """Write the answers of a job to the journal. Returns the halves of requests that were split."""
        again: list[PackedRequest] = []
        with tempfile.TemporaryDirectory(prefix="shopframe-batch-") as folder:
            target = Path(folder, "responses.jsonl")
            if not await self._patiently(partial(download, self._client, job, target)):
                log.warning("batch job %s: the server no longer has its answers", job.display_name)
                return again
            with target.open("rb") as lines:
                results = list(read_results(lines, requests, self._drainer.schema, self._client.scrub))
                refusals = [answer.refusal for _, answer in results if answer.refusal is not None]
                if len(refusals) == len(results) > 1 and not self._has_answered:
                    # Crops alone would not make every request of a first job fail.
                    done.stop = Stop("refused", f"{refusals[0]}; {remedy_of(refusals[0])}")
                    return again
                self._has_answered = self._has_answered or len(refusals) < len(results)
                for request, answer in results:
                    self._spent_usd += cost_usd(answer.usage, self._settings, batch=True)
                    if answer.split_reason is not None:
                        log.info("request split: %s", answer.split_reason)
                        again += halves(request)
                    else:
                        self._keep(request, answer, resolved, done)
                    if (lasting := self._unusable.note(answer)) is not None:
                        done.stop = Stop("invalid", self._client.scrub(lasting))
        return again if done.stop is None else []

    def _resolved_for(self, record: BatchRecord) -> ResolvedGemini:
        """Return the question of this run, with the model that the job was submitted to."""
        resolved = self._drainer.resolved
        model = record.model or resolved.earlier.get(record.fingerprint, resolved.model)
        return replace(resolved, model=model)

    def _keep(
        self, request: PackedRequest, answer: GeminiAnswer, resolved: ResolvedGemini, done: BatchRun
    ) -> None:
        by_shard: dict[str, list[JournalEntry]] = defaultdict(list)
        for key, annotation in answer.annotations.items():
            asked = self._asked[key]
            entry = answered(
                annotation,
                crop_sha256(asked.crop.jpeg),
                answer,
                len(request.crops),
                cost_usd(answer.usage, self._settings, batch=True),
                resolved,
            )
            if annotation.status == "error":
                done.unanswered[entry.crop_sha256] = entry
            elif annotation.status != "pending":
                by_shard[asked.shard_id].append(entry)
                for shard_id in self._shards_of.get(entry.crop_sha256, ()):
                    if shard_id != asked.shard_id:
                        by_shard[shard_id].append(entry.for_an_equal_crop())
        for shard_id, entries in by_shard.items():
            write_journal(self._store, shard_id, request.key, entries)

    async def _patiently(self, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """Repeat a call that fails for a temporary reason, at most `gemini.retries` times."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type((GeminiUnavailableError, GeminiRateLimitedError)),
            wait=wait_random_exponential(multiplier=1, max=self._settings.retry_max_wait_s),
            stop=stop_after_attempt(self._settings.retries + 1),
            sleep=self._clock.sleep,
            reraise=True,
        )
        result: _Result = await attempts(call)
        return result

    def _rebuild(self, record: BatchRecord) -> list[PackedRequest]:
        """Rebuild the requests of a job from the committed crops, except those whose crops are gone."""
        shards = {crop.shard_id for request in record.requests for crop in request}
        self._asked = {}
        for shard_id in sorted(shards):
            try:
                _, shard = self._drainer.load(DrainTask(shard_id))
            except CropRestoreError as error:
                log.warning("batch mode skips shard %s: %s", shard_id, error)
                continue
            self._asked |= {crop.key: AskedCrop(shard_id, crop) for _, crop in shard.crops_by_person()}
        requests: list[PackedRequest] = []
        for crops in record.requests:
            if all(self._is_here(crop) for crop in crops):
                shown = [Crop(c.key, shown_crop(self._asked[c.key].crop.jpeg, self._settings)) for c in crops]
                requests += pack(shown, len(shown), record.seed)
        return requests

    def _is_here(self, crop: BatchCrop) -> bool:
        asked = self._asked.get(crop.key)
        return asked is not None and crop_sha256(asked.crop.jpeg) == crop.crop_sha256


def _slices(crops: Iterable[AskedCrop], size: int) -> Iterator[list[AskedCrop]]:
    group: list[AskedCrop] = []
    for crop in crops:
        group.append(crop)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
