"""Online mode, in which every request from a cluster to Gemini goes through a throttled actor.

Callers pass the waiting persons of a shard and wait for the answers. The annotator packs persons of several
shards into one request and holds each request until the quota allows it. It records the crops of a request
before sending it, and the answers before using them. A request is counted, recorded and sent in this order,
so a kill at any point loses at most the answers in flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from tenacity.wait import wait_base

from actors.attributes import AttributeSchema
from actors.errors import (
    GeminiRateLimitedError,
    GeminiRefusedError,
    GeminiUnavailableError,
    PreconditionError,
    ShopframeError,
)
from actors.fingerprint import crop_sha256
from actors.gemini.answer_journal import JournalEntry, file_journal, find_paid, write_journal
from actors.gemini.api.answer import GeminiAnswer
from actors.gemini.api.client import GeminiClient, read_api_key
from actors.gemini.api.packing import Crop, PackedRequest, halves, pack
from actors.gemini.api.refused_arguments import blank_request, remedy_of
from actors.gemini.api.shown_crops import shown_crop
from actors.gemini.api.tokens import cost_usd, estimate_input_tokens
from actors.gemini.api.unusable_answers import UnusableAnswers
from actors.gemini.backlog.pending_shard import answered
from actors.gemini.egress_log import egress_of, merge_egress, record_egress
from actors.gemini.protocol import Annotator, Answers, AskedCrop, DrainTask, Stop
from actors.gemini.quota.quota import Clock, NotNow, Quota, Reservation, SystemClock, key_id_of
from actors.gemini.settings import GeminiSettings, ResolvedGemini
from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from actors.time_text import moment

log = logging.getLogger(__name__)

_LINGER_S = 0.3
"""Time that an incomplete request waits for persons of other shards, in real seconds."""

_RECENT = 20_000
"""Number of crops of this run whose answers are remembered for equal crops of other shards."""

_JOURNALLED = 1000
"""Number of objects in the journal from which a run moves them to the index of answers."""

_FAILED_IN_A_ROW = 5
"""Number of requests that fail in a row for a temporary reason, despite their retries, until the reason
counts as lasting. Two crops that always make the server fail cause fewer failures in a row while their
request is split, and the number is small enough to leave most of a day's quota."""


class _Stopped(Exception):  # noqa: N818  it carries a reason to the callers and is not an error
    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.reason)
        self.stop = stop


@dataclass(slots=True)
class _Waiting:
    asked: AskedCrop
    done: asyncio.Future[JournalEntry]


@dataclass(frozen=True, slots=True)
class _Recent:
    """The shard that a crop was asked about for, and the future that holds its answer."""

    shard_id: str
    done: asyncio.Future[JournalEntry]


@dataclass
class _AsAdvised(wait_base):
    """Wait as long as the server advised. Without advice, wait longer each time, with jitter."""

    longest_s: float
    otherwise: wait_base = field(init=False)

    def __post_init__(self) -> None:
        self.otherwise = wait_random_exponential(multiplier=1, max=self.longest_s)

    def __call__(self, retry_state: Any) -> float:
        error = retry_state.outcome.exception()
        advised = getattr(error, "retry_after_s", None)
        return float(advised) if advised is not None else float(self.otherwise(retry_state))


class OnlineAnnotator(Annotator):
    """Asks Gemini about crops, within the quota.

    Its methods may be called concurrently. At most `gemini.max_in_flight` requests, by default one, are in
    flight at the same time.

    Args:
        settings: Settings of the requests, and the quota.
        resolved: Model and prompt.
        schema: Schema that the answers must fit.
        store: The output, which holds the ledger, the journal and the egress log.
        clock: Clock for the quota and for waits between retries.

    Raises:
        ConfigError: GEMINI_API_KEY is not set.
    """

    waits_for_all: ClassVar[bool] = False

    def __init__(
        self,
        settings: GeminiSettings,
        resolved: ResolvedGemini,
        schema: AttributeSchema,
        store: ObjectStore,
        clock: Clock | None = None,
    ) -> None:
        key = read_api_key()
        self._settings = settings
        self._resolved = resolved
        self._schema = schema
        self._store = store
        self._clock: Clock = clock or SystemClock()
        self._client = GeminiClient(settings, resolved, schema, key)
        key_id = key_id_of(key.get_secret_value())
        self._quota = Quota(settings.ledger_place(store), settings.quota_limits, key_id, self._clock)
        self._window = asyncio.Semaphore(settings.max_in_flight)
        self._waiting: list[_Waiting] = []
        self._recent: OrderedDict[tuple[str, bool], _Recent] = OrderedDict()
        self._arrived = asyncio.Event()
        self._dispatching: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._stop: Stop | None = None
        self._checking = asyncio.Lock()
        self._unusable = UnusableAnswers()
        self._failed_in_a_row = 0
        self._spent_usd = 0.0
        self._begun = False
        self._journalled: list[str] = []

    async def ask(self, crops: Sequence[AskedCrop]) -> Answers:
        """Return answers to as many of the crops as the quota and the budget allow.

        Returns when no more answers will come. Crops with the same bytes are asked about once, even if they
        are from different shards.
        """
        loop = asyncio.get_running_loop()
        if self._dispatching is None:
            self._dispatching = loop.create_task(self._dispatch())
        if self._stop is not None or not crops:
            return Answers({}, self._stop)
        by_digest = {crop_sha256(asked.crop.jpeg): asked for asked in crops}
        entries = await self._paid_before({d: asked for d, asked in by_digest.items() if not asked.again})
        answers: dict[str, asyncio.Future[JournalEntry]] = {}
        equal: dict[str, AskedCrop] = {}
        for digest, asked in by_digest.items():
            if digest in entries:
                continue
            recent = self._recent.get((digest, asked.again))
            if recent is None or recent.done.cancelled():
                recent = self._recent[digest, asked.again] = _Recent(asked.shard_id, loop.create_future())
                self._waiting.append(_Waiting(asked, recent.done))
            elif recent.shard_id != asked.shard_id:
                equal[digest] = asked
            answers[digest] = recent.done
        while len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        self._arrived.set()
        if answers:
            await asyncio.wait(answers.values())
        entries |= {digest: done.result() for digest, done in answers.items() if not done.cancelled()}
        for digest, asked in equal.items():
            if digest in entries:
                entries[digest] = entries[digest].for_an_equal_crop()
                # The journal is kept per shard, so the answer is also written to the journal of this one.
                await self._write_journal(asked.shard_id, digest[:32], [entries[digest]])
        return Answers(entries, self._stop if len(entries) < len(by_digest) else None)

    async def collect(self, tasks: Sequence[DrainTask]) -> Stop | None:  # noqa: ARG002
        """Do nothing, because in online mode `ask` gets the answers."""
        return None

    async def begin(self) -> None:
        """Begin a run, and forget why the previous run stopped and what it spent."""
        self._stop, self._unusable = None, UnusableAnswers()
        self._failed_in_a_row = 0
        self._spent_usd = 0.0
        self._begun = True

    async def _paid_before(self, asked: Mapping[str, AskedCrop]) -> dict[str, JournalEntry]:
        """Find answers from before a restart of this actor; Ray repeats the calls that were interrupted."""
        if self._begun:
            return {}
        found: dict[str, JournalEntry] = {}
        for shard_id in sorted({crop.shard_id for crop in asked.values()}):
            digests = {digest for digest, crop in asked.items() if crop.shard_id == shard_id}
            found |= await asyncio.to_thread(
                find_paid, self._store, shard_id, self._resolved.question, self._resolved.model, digests
            )
        return found

    async def finish(self) -> None:
        """Write to the ledger what it doesn't have yet. Call this when there is nothing more to ask."""
        await self._quota.return_unused()

    # --- from crops to requests ---

    async def _dispatch(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._settings.persons_per_request:
                await asyncio.sleep(_LINGER_S)
            await self._window.acquire()
            batch = self._waiting[: self._settings.persons_per_request]
            del self._waiting[: len(batch)]
            if not self._waiting:
                self._arrived.clear()
            if not batch:
                self._window.release()
                continue
            task = asyncio.get_running_loop().create_task(self._send_batch(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send_batch(self, batch: list[_Waiting]) -> None:
        """Send a request and the halves it is split into. In the end no future of the batch is left open."""
        by_key = {entry.asked.crop.key: entry for entry in batch}
        try:
            shown = [
                Crop(key, await asyncio.to_thread(shown_crop, entry.asked.crop.jpeg, self._settings))
                for key, entry in by_key.items()
            ]
            requests = list(pack(shown, len(shown), self._settings.seed))
            while requests and self._stop is None:
                request = requests.pop(0)
                answer = await self._answer(request, by_key)
                if answer.split_reason is not None:
                    log.info("request split: %s", answer.split_reason)
                    # The halves go to the end of the queue. The other half of an earlier split is then asked
                    # first, and its answer shows whether a crop or the server causes the failures.
                    requests += halves(request)
        except _Stopped as stopped:
            self._stop = stopped.stop
        except (ShopframeError, *STORAGE_ERRORS) as error:
            log.exception("the Gemini stage stopped because of an error")
            self._stop = Stop("unreachable", self._client.scrub(storage_error_text(error)))
        except Exception as error:  # Without this, the callers would wait for ever.
            log.exception("the Gemini stage stopped because of an error")
            self._stop = Stop("unreachable", self._client.scrub(f"{type(error).__name__}: {error}"))
        finally:
            self._window.release()
            if self._stop is not None:
                batch = [*batch, *self._waiting]
                self._waiting.clear()
                self._arrived.clear()
            for entry in batch:
                if not entry.done.done():
                    entry.done.cancel()

    # --- one request ---

    async def _answer(self, request: PackedRequest, by_key: dict[str, _Waiting]) -> GeminiAnswer:
        """Send a request until it is answered, and write the answer to the journal."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(GeminiUnavailableError),
            wait=_AsAdvised(self._settings.retry_max_wait_s),
            stop=stop_after_attempt(self._settings.retries + 1),
            sleep=self._clock.sleep,
            reraise=True,
        )
        try:
            answer: GeminiAnswer = await attempts(self._send, request, by_key)
        except GeminiRefusedError as error:
            raise _Stopped(Stop("refused", str(error))) from None
        except GeminiUnavailableError as error:
            return self._give_up(request, by_key, str(error))
        self._failed_in_a_row = 0
        if answer.refusal is not None:
            await self._check_arguments(answer.refusal)
        if answer.split_reason is None:
            await self._keep(request, answer, by_key)
        if (lasting := self._unusable.note(answer)) is not None:
            raise _Stopped(Stop("invalid", self._client.scrub(lasting)))
        return answer

    async def _check_arguments(self, refusal: str) -> None:
        """Find out whether a refusal concerns the crops or the arguments that all requests have in common.

        Google rarely says which. If it has answered no request yet, it is asked about a blank image, which
        costs one request. If it refuses this one too, no request will be answered.
        """
        async with self._checking:
            if self._client.has_answered or self._stop is not None:
                return
            try:
                answer = await self._send(blank_request(), {})
            except GeminiUnavailableError:
                return
            except GeminiRefusedError as error:
                raise _Stopped(Stop("refused", str(error))) from None
            if answer.refusal is not None:
                raise _Stopped(
                    Stop("refused", f"{refusal}; a blank image was refused too: {remedy_of(refusal)}")
                )

    def _give_up(self, request: PackedRequest, by_key: dict[str, _Waiting], reason: str) -> GeminiAnswer:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _FAILED_IN_A_ROW:
            raise _Stopped(Stop("unreachable", f"{reason}; run again later"))
        if len(request.crops) > 1:
            return GeminiAnswer({}, split_reason=f"error: {reason}")
        crop = request.crops[0]
        entry = self._entry(Annotation("error", reason), by_key[crop.key], GeminiAnswer({}), 1)
        by_key[crop.key].done.set_result(entry)
        return GeminiAnswer({crop.key: entry.annotation})

    async def _send(self, request: PackedRequest, by_key: dict[str, _Waiting]) -> GeminiAnswer:
        while True:
            reservation = await self._reserve(request)
            sent = [by_key[crop.key].asked for crop in request.crops if crop.key in by_key]
            if sent:
                egress = egress_of(request.key, sent, self._resolved.model, self._clock.now())
                await asyncio.to_thread(record_egress, self._store, egress)
            if self._clock.now() > reservation.send_by:
                # Writing the record took so long that the server could count this request in a later window.
                await self._quota.release(reservation)
                continue
            try:
                answer = await self._client.ask(request)
            except GeminiRateLimitedError as error:
                log.info("Gemini answered 429: %s", error)
                await self._quota.refused(reservation, error.per_day, error.retry_after_s)
                continue
            if answer.usage.input:
                await self._quota.settle(reservation, answer.usage.input)
            self._spent_usd += cost_usd(answer.usage, self._settings)
            return answer

    async def _reserve(self, request: PackedRequest) -> Reservation:
        tokens = estimate_input_tokens(request, self._settings, self._resolved, self._schema)
        limit = self._settings.max_cost_usd
        while True:
            if limit is not None and self._spent_usd >= limit:
                raise _Stopped(Stop("budget", f"gemini.max_cost_usd={limit:g} is spent"))
            try:
                granted = await self._quota.reserve(tokens)
            except PreconditionError as error:
                log.warning("%s", error)
                continue
            if not isinstance(granted, NotNow):
                return granted
            if granted.reason == "per_day" and self._settings.on_daily_quota == "park":
                reason = f"the day's quota is spent; it resets at {moment(granted.until)}"
                raise _Stopped(Stop("daily_quota", reason, granted.until))
            await self._clock.sleep(max(granted.until - self._clock.now(), 0.01))

    async def _keep(self, request: PackedRequest, answer: GeminiAnswer, by_key: dict[str, _Waiting]) -> None:
        """Write the answers to the journal, and only then pass them to the callers."""
        entries = {
            key: self._entry(annotation, by_key[key], answer, len(request.crops))
            for key, annotation in answer.annotations.items()
        }
        by_shard: dict[str, list[JournalEntry]] = defaultdict(list)
        for key, entry in entries.items():
            by_shard[by_key[key].asked.shard_id].append(entry)
        for shard_id, group in by_shard.items():
            await self._write_journal(shard_id, request.key, group)
        for key, entry in entries.items():
            by_key[key].done.set_result(entry)

    async def _write_journal(self, shard_id: str, request_key: str, entries: Sequence[JournalEntry]) -> None:
        path = await asyncio.to_thread(write_journal, self._store, shard_id, request_key, entries)
        self._journalled.append(path)
        if len(self._journalled) >= _JOURNALLED:
            paths, self._journalled = self._journalled, []
            await asyncio.to_thread(file_journal, self._store, paths)
            await asyncio.to_thread(merge_egress, self._store)

    def _entry(
        self, annotation: Annotation, waiting: _Waiting, answer: GeminiAnswer, share: int
    ) -> JournalEntry:
        return answered(
            annotation,
            crop_sha256(waiting.asked.crop.jpeg),
            answer,
            share,
            cost_usd(answer.usage, self._settings),
            self._resolved,
        )
