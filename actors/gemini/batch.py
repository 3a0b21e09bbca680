"""Batch mode, which sends the backlog as jobs of the Batch API that outlive the run that submitted them.

The record of a job is written to the bucket before the job is submitted, and its answers are written to the
journal before the record is closed. If a run is killed at any point, the next run finds the open job and goes
on. If the server doesn't have the job, the record is closed, and its crops are asked about as any others. The
same job is never submitted twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import ClassVar

from actors.errors import (
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
from actors.gemini.api.batch_jobs import BatchJob, display_name, group_requests, request_line
from actors.gemini.api.client import GeminiClient, read_api_key
from actors.gemini.api.packing import Crop, PackedRequest, halves
from actors.gemini.api.refused_arguments import remedy_of
from actors.gemini.api.tokens import OutputEstimate, cost_usd, estimate_input_tokens, request_cost
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
from actors.gemini.batch_requests import BatchRun, known_answers, rebuild, shown_requests, slices
from actors.gemini.egress_log import egress_of, record_egress
from actors.gemini.job_runner import JobRunner
from actors.gemini.protocol import Annotator, Answers, AskedCrop, DrainTask, Progress, Stop
from actors.gemini.quota.ledger import RunSpend
from actors.gemini.quota.quota import Clock, Quota, SystemClock, key_id_of
from actors.gemini.quota.server_time import ServerTime
from actors.gemini.quota.spend import SpendChange
from actors.gemini.second_answers import SecondAnswers
from actors.gemini.settings import GeminiSettings, ResolvedGemini
from actors.log_lines import NewLines, about_shard
from actors.storage import layout
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

log = logging.getLogger(__name__)

_CROPS_IN_MEMORY = 20_000
"""Number of crops that are packed together: they take about 400 MB of memory and fill many requests."""


class BatchAnnotator(Annotator):
    """Works off tasks through the Batch API, one job at a time.

    Args:
        settings: Settings of the requests, and the limits of a job.
        drainer: Loads the persons of a shard that still wait for an answer.
        holder: Name of the run in its claims.
        clock: Clock for polls and deadlines.
        run_id: Run that the cost is counted for.
        log_run_id: Id of the run in the lines of its log, if this process logs as a worker.

    Raises:
        ConfigError: GEMINI_API_KEY is not set.
    """

    waits_for_all: ClassVar[bool] = True
    """A job is made only when the run's own shards are done, because a larger job is cheaper per person."""

    def __init__(
        self,
        settings: GeminiSettings,
        drainer: ShardDrainer,
        holder: str,
        clock: Clock | None = None,
        run_id: str = "",
        log_run_id: str | None = None,
    ) -> None:
        self._lines = NewLines(log_run_id)
        key = read_api_key()
        self._settings = settings
        self._drainer = drainer
        self._store: ObjectStore = drainer.committer.store
        self._claims = Claims(self._store, holder)
        self._clock = ServerTime(clock or SystemClock())
        self._client = GeminiClient(settings, drainer.resolved, drainer.schema, key, self._clock)
        self._jobs = JobRunner(settings, self._client, self._clock)
        place, key_id = settings.ledger_place(self._store), key_id_of(key.get_secret_value())
        self._quota = Quota(place, settings.quota_limits, key_id, self._clock, run_id)
        self._output = OutputEstimate()
        self._asked: dict[str, AskedCrop] = {}
        self._shards_of: dict[str, list[str]] = {}
        self._in_jobs: set[str] = set()
        self._unanswered: dict[str, JournalEntry] = {}
        self._has_answered = False
        self._unusable = UnusableAnswers()
        self._second = SecondAnswers(drainer.schema, settings.reask_violations)

    async def begin(self, run_id: str) -> None:
        """Begin a run. Each run starts a new batch annotator of its own."""
        self._quota.run_id = run_id

    async def progress(self) -> Progress:
        """Return how often jobs were looked at, and for how long the annotator waits until the next time."""
        return replace(self._jobs.progress(), lines=self._lines.take())

    async def ask(self, crops: Sequence[AskedCrop]) -> Answers:
        """Return the errors that the jobs brought for these crops; the answers are in the journal."""
        digests = [crop_sha256(asked.crop.jpeg) for asked in crops]
        return Answers({d: self._unanswered[d] for d in digests if d in self._unanswered}, None)

    async def finish(self) -> RunSpend:
        """End the run and the claims of this annotator when there is nothing more to ask."""
        self._claims.close()
        return await self._quota.end_run()

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

    async def collect_ended(self) -> list[str]:
        """Get the answers of the open jobs that have ended or are late, without waiting for others.

        Returns:
            Digests of the crops in jobs that are still open. Nobody else should ask about them.

        Raises:
            OutputError: The object in the place of a job's record is not one.
            OSError: The store can't be read. Other errors of a store are possible too.
        """
        for record in open_batches(self._store, self._drainer.resolved.question):
            if not await self._claim([layout.batch_path(record.name)]):
                self._expect(record)
                continue
            try:
                job = await self._jobs.find(record)
                if job is None or job.done or self._jobs.is_late(record):
                    await self._resume(record, job, BatchRun())
                else:
                    self._leave(record)
            except (ShopframeError, *STORAGE_ERRORS) as error:
                reason = self._client.scrub(storage_error_text(error))
                log.warning("batch job %s is left open: %s", record.name, reason)
                self._leave(record)
        self._claims.close()
        return sorted(self._in_jobs)

    async def _run(self, tasks: Sequence[DrainTask], done: BatchRun) -> None:
        is_open = open_batches(self._store, self._drainer.resolved.question)
        for path in await self._claim(layout.batch_path(record.name) for record in is_open):
            record = read_batch(self._store, path)
            if record.closed is not None:  # The run that held the claim has closed the job in the meantime.
                self._claims.release(path)
                continue
            # A job that was never submitted is closed, and its crops are asked about as any others: some may
            # have been answered since, or may not be sent any more.
            await self._resume(record, await self._jobs.find(record), done)
        free = set(await self._claim([task.shard_id for task in tasks]))
        tasks = [task for task in tasks if task.shard_id in free]
        groups = slices(self._waiting(tasks), _CROPS_IN_MEMORY)
        # In threads, so that the run can ask meanwhile how far the annotator is.
        while crops := await asyncio.to_thread(next, groups, None):
            self._asked = {asked.crop.key: asked for asked in crops}
            requests = await asyncio.to_thread(shown_requests, crops, self._settings)
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
                with about_shard(task.shard_id):
                    log.warning("batch mode skips shard %s: %s", task.shard_id, error)
                continue
            chosen = None if task.chosen is None else frozenset(task.chosen)
            for _, crop in shard.questions(chosen):
                if crop_sha256(crop.jpeg) in self._in_jobs:
                    continue
                shards = self._shards_of.get(crop_sha256(crop.jpeg))
                if shards is None:
                    self._shards_of[crop_sha256(crop.jpeg)] = [task.shard_id]
                    yield AskedCrop(task.shard_id, crop, attempt=shard.attempt)
                elif task.shard_id not in shards:
                    shards.append(task.shard_id)

    async def _ask(self, requests: Sequence[PackedRequest], done: BatchRun) -> list[PackedRequest]:
        """Run jobs for these requests. Returns the requests that have to be asked again, or their parts."""
        settings, limit = self._settings, self._settings.max_cost_usd
        left, again = list(requests), list[PackedRequest]()
        while left and done.stop is None:
            spent_usd = (await self._quota.spend(SpendChange())).spent_usd
            if limit is not None and spent_usd >= limit:
                done.stop = Stop("budget", f"gemini.max_cost_usd={limit:g} is spent")
                break
            affordable = left if limit is None else self._affordable(left, limit - spent_usd)
            groups = group_requests(affordable, settings.batch, self._line, self._tokens)
            group = next(groups)
            left = left[len(group) :]
            record = await self._begin(group)
            job = await self._jobs.submit(record, group)
            again += await self._finish(record, job, group, done)
        return again

    def _line(self, request: PackedRequest) -> bytes:
        return request_line(request, self._settings, self._drainer.resolved, self._drainer.schema)

    def _tokens(self, request: PackedRequest) -> int:
        return estimate_input_tokens(request, self._settings, self._drainer.resolved, self._drainer.schema)

    def _expected_usd(self, request: PackedRequest) -> float:
        tokens, persons = self._tokens(request), len(request.crops)
        return request_cost(tokens, persons, self._output, self._settings, batch=True).expected_usd

    def _affordable(self, requests: Sequence[PackedRequest], budget_usd: float) -> list[PackedRequest]:
        """Return the first requests, up to the one with which the budget is reached."""
        totals = accumulate(map(self._expected_usd, requests))
        return list(requests[: 1 + sum(total < budget_usd for total in totals)])

    # --- one job ---

    async def _begin(self, group: Sequence[PackedRequest]) -> BatchRecord:
        """Write the record of a job, under the first name that no earlier job with the same requests has."""
        resolved, attempt = self._drainer.resolved, 0
        while self._store.exists(layout.batch_path(display_name(resolved, group, attempt))):
            attempt += 1
        record = BatchRecord(
            name=display_name(resolved, group, attempt),
            fingerprint=resolved.fingerprint,
            created_at=datetime.fromtimestamp(self._clock.now(), UTC).isoformat(),
            seed=self._settings.seed,
            model=resolved.model,
            run_id=self._quota.run_id,
            expected_usd=sum(map(self._expected_usd, group)),
            requests=tuple(tuple(self._recorded(crop) for crop in request.crops) for request in group),
        )
        # The claim comes before the record, so that another run that finds the record leaves the job alone.
        await self._claim([layout.batch_path(record.name)])
        sent = [self._asked[crop.key] for request in group for crop in request.crops]
        record_egress(self._store, egress_of(record.name, sent, resolved.model, self._clock.now()))
        await self._quota.spend(SpendChange(record.expected_usd, 0.0, record.expected_usd))
        create_batch(self._store, record)
        return record

    def _recorded(self, crop: Crop) -> BatchCrop:
        asked = self._asked[crop.key]
        return BatchCrop(shard_id=asked.shard_id, key=crop.key, crop_sha256=crop_sha256(asked.crop.jpeg))

    async def _finish(
        self,
        record: BatchRecord,
        job: BatchJob | None,
        requests: Sequence[PackedRequest],
        done: BatchRun,
    ) -> list[PackedRequest]:
        """Wait for the end of a job, and journal its answers. Returns what has to be asked again."""
        found = None if job is None else await self._jobs.wait(record, job)
        if found is not None and not found.done:
            log.warning("batch job %s doesn't end although it was cancelled", record.name)
            self._leave(record)
            return []
        resolved = record.resolved(self._drainer.resolved)
        results = [] if found is None else await self._jobs.results(found, requests)
        again = self._keep_all(results, resolved, done)
        await self._settle(record, results, resolved.model)
        outcome = "lost" if found is None else found.state
        log.info("batch job %s has ended: %s", record.name, outcome)
        if outcome != "succeeded":
            log.warning("batch job %s is %s; its other persons are pending again", record.name, outcome)
        await self._jobs.delete_files(record, found)
        close_batch(self._store, record, outcome)
        self._claims.release(layout.batch_path(record.name))
        return again

    async def _resume(self, record: BatchRecord, job: BatchJob | None, done: BatchRun) -> None:
        """Finish a job that another run has begun. What has to be asked again is asked as any other crops."""
        requests, self._asked = await asyncio.to_thread(rebuild, record, self._drainer, self._settings)
        self._second.know(await asyncio.to_thread(known_answers, record, self._drainer))
        await self._finish(record, job, requests, done)

    def _leave(self, record: BatchRecord) -> None:
        """Leave a job open, for a later run."""
        self._expect(record)
        self._claims.release(layout.batch_path(record.name))

    def _expect(self, record: BatchRecord) -> None:
        """Ask nobody about the crops of an open job, unless its answers will not be accepted."""
        now = self._drainer.resolved
        if now.question.accepts(record.resolved(now).model):
            self._in_jobs |= {crop.crop_sha256 for request in record.requests for crop in request}

    async def _settle(
        self, record: BatchRecord, results: Sequence[tuple[PackedRequest, GeminiAnswer]], model: str
    ) -> None:
        """Count what a job has cost. Its estimate is replaced if this run has submitted it."""
        counted = sum(self._cost(answer, model) for _, answer in results)
        estimated = record.expected_usd if record.run_id == self._quota.run_id else 0.0
        await self._quota.spend(SpendChange(0.0, counted, -estimated))

    def _cost(self, answer: GeminiAnswer, model: str) -> float:
        return cost_usd(answer.usage, self._settings, batch=True, model=model)

    def _keep_all(
        self,
        results: Sequence[tuple[PackedRequest, GeminiAnswer]],
        resolved: ResolvedGemini,
        done: BatchRun,
    ) -> list[PackedRequest]:
        """Write the answers of a job to the journal. Returns the requests that have to be asked again."""
        refusals = [answer.refusal for _, answer in results if answer.refusal is not None]
        if len(refusals) == len(results) > 1 and not self._has_answered:
            # Crops alone would not make every request of a first job fail.
            done.stop = Stop("refused", f"{refusals[0]}; {remedy_of(refusals[0])}")
            return []
        self._has_answered = self._has_answered or len(refusals) < len(results)
        again: list[PackedRequest] = []
        for request, answer in results:
            self._output.add(len(request.crops), answer.usage)
            if answer.split_reason is not None:
                log.info("request split: %s", answer.split_reason)
                again += halves(request)
            else:
                keys = {*answer.ask_again, *self._keep(request, answer, resolved, done)}
                again += [request.part(keys)] if keys else []
            if (lasting := self._unusable.note(answer)) is not None:
                done.stop = Stop("invalid", self._client.scrub(lasting))
        return again if done.stop is None else []

    def _keep(
        self, request: PackedRequest, answer: GeminiAnswer, resolved: ResolvedGemini, done: BatchRun
    ) -> list[str]:
        """Write answers to the journal. Returns the keys of the crops that are asked about once more."""
        again: list[str] = []
        by_shard: dict[str, list[JournalEntry]] = defaultdict(list)
        # What the request has cost is divided among the persons that got an answer.
        share, cost = len(answer.annotations), self._cost(answer, resolved.model)
        for key, annotation in answer.annotations.items():
            asked = self._asked[key]
            digest = crop_sha256(asked.crop.jpeg)
            entry = self._second.joined(answered(annotation, digest, answer, share, cost, resolved))
            again += [key] if self._second.is_wanted(entry) else []
            if entry.annotation.status == "error":
                done.unanswered[entry.crop_sha256] = entry
            elif entry.annotation.status != "pending":
                by_shard[asked.shard_id].append(entry)
                for shard_id in self._shards_of.get(entry.crop_sha256, ()):
                    if shard_id != asked.shard_id:
                        by_shard[shard_id].append(entry.for_an_equal_crop())
        for shard_id, entries in by_shard.items():
            # The second question may be the same request, and must not replace the first answers.
            name = f"{request.key}-again" if any(entry.answers > 1 for entry in entries) else request.key
            write_journal(self._store, shard_id, name, entries)
        return again
