"""Online mode, in which every request from a cluster to Gemini goes through a throttled actor.

Callers pass the waiting persons of a shard and wait for the answers. The persons of all shards wait in one
queue, from which requests are made: as many as may be in flight (`in_flight.py`), and as many again whose
pictures and records are ready when their turn comes. A request is sent when the quota allows (`sender.py`).
The answers are written down before they are used.

While requests fail, one at a time is sent, each time another one, and nothing is concluded about their crops.
Only when an answer shows that the server works do the failures before it count against the requests that
failed. A request that has failed too often is split, and finally its crop is an error.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar

from actors.attributes import AttributeSchema
from actors.errors import GeminiUnavailableError, ShopframeError
from actors.fingerprint import crop_sha256
from actors.gemini.answer_journal import JournalEntry, file_journal, find_paid, write_journal
from actors.gemini.api.answer import GeminiAnswer
from actors.gemini.api.packing import Crop, PackedRequest, halves, pack, request_of
from actors.gemini.api.refused_arguments import blank_request
from actors.gemini.api.shown_crops import shown_crop
from actors.gemini.api.tokens import cost_usd
from actors.gemini.backlog.pending_shard import answered
from actors.gemini.egress_log import merge_egress
from actors.gemini.protocol import Annotator, Answers, AskedCrop, DrainTask, Progress, Stop
from actors.gemini.quota.ledger import RunSpend
from actors.gemini.quota.quota import Clock
from actors.gemini.second_answers import better_of
from actors.gemini.sender import Sender, Stopped
from actors.gemini.settings import GeminiSettings, ResolvedGemini
from actors.log_lines import NewLines, about_shards
from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from actors.storage.request_counts import counted_so_far
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

log = logging.getLogger(__name__)

_LINGER_S = 0.3
"""Time that an incomplete request waits for persons of other shards, in real seconds."""

_RECENT = 20_000
"""Number of crops of this run whose answers are remembered for equal crops of other shards."""

_JOURNALLED = 1000
"""Number of objects in the journal from which a run moves them to the index of answers."""


@dataclass(slots=True)
class _Waiting:
    asked: AskedCrop
    done: asyncio.Future[JournalEntry]


@dataclass(slots=True)
class _Request:
    """A request that is to be sent.

    Attributes:
        packed: The request.
        is_shown: Whether it has the pictures that are sent. Otherwise, it has the crops as committed.
        strikes: How often it has failed since the server last answered any request.
        failures: How often it has failed otherwise: at most once between two answers to other requests.
        reason: Why it failed last.
    """

    packed: PackedRequest
    is_shown: bool = False
    strikes: int = 0
    failures: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Recent:
    """The shard that a crop was asked about for, and the future that holds its answer."""

    shard_id: str
    done: asyncio.Future[JournalEntry]


class OnlineAnnotator(Annotator):
    """Asks Gemini about crops, within the quota.

    Its methods may be called concurrently.

    Args:
        settings: Settings of the requests, and the quota.
        resolved: Model and prompt.
        schema: Schema that the answers must fit.
        store: The output, which holds the journal and the egress log.
        clock: Clock for the quota and for waits between retries.
        run_id: Run that the cost is counted for.
        log_run_id: Id of the run in the lines of its log, if this process logs as a worker.

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
        run_id: str = "",
        log_run_id: str | None = None,
    ) -> None:
        self._lines = NewLines(log_run_id)
        self._settings = settings
        self._resolved = resolved
        self._schema = schema
        self._store = store
        self._sender = Sender(settings, resolved, schema, store, clock, run_id)
        self._waiting: list[_Waiting] = []
        self._by_key: dict[str, _Waiting] = {}
        self._again: deque[_Request] = deque()
        self._failing: list[_Request] = []
        self._blank_is_next = False
        self._in_work = 0
        self._pictures = ThreadPoolExecutor(os.cpu_count() or 1, "gemini-pictures")
        self._changed = asyncio.Event()
        self._recent: OrderedDict[tuple[str, bool], _Recent] = OrderedDict()
        self._dispatching: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
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
        if self._sender.stop is not None or not crops:
            return Answers({}, self._sender.stop)
        by_digest = {crop_sha256(asked.crop.jpeg): asked for asked in crops}
        entries = await self._paid_before({d: asked for d, asked in by_digest.items() if not asked.is_again})
        answers: dict[str, asyncio.Future[JournalEntry]] = {}
        equal: dict[str, AskedCrop] = {}
        for digest, asked in by_digest.items():
            if digest in entries:
                continue
            recent = self._recent.get((digest, asked.is_again))
            if recent is None or recent.done.cancelled():
                recent = self._recent[digest, asked.is_again] = _Recent(asked.shard_id, loop.create_future())
                self._waiting.append(_Waiting(asked, recent.done))
            elif recent.shard_id != asked.shard_id:
                equal[digest] = asked
            answers[digest] = recent.done
        while len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        self._changed.set()
        if answers:
            await asyncio.wait(answers.values())
        entries |= {digest: done.result() for digest, done in answers.items() if not done.cancelled()}
        for digest, asked in equal.items():
            if digest in entries:
                entries[digest] = entries[digest].for_an_equal_crop()
                # The journal is kept per shard, so the answer is also written to the journal of this one.
                await self._write_journal(asked.shard_id, digest[:32], [entries[digest]])
        return Answers(entries, self._sender.stop if len(entries) < len(by_digest) else None)

    async def collect(self, tasks: Sequence[DrainTask]) -> Stop | None:  # noqa: ARG002
        """Do nothing, because in online mode `ask` gets the answers."""
        return None

    async def begin(self, run_id: str) -> None:
        """Begin or join a run, and forget why the previous run stopped."""
        self._sender.begin(run_id)
        self._begun = True

    async def progress(self) -> Progress:
        """Return what has moved so far, and for how long the annotator waits on purpose."""
        sender = self._sender
        return replace(
            sender.progress(),
            traffic=sender.client.traffic.so_far(),
            quota=sender.quota.last_status(),
            store_requests=counted_so_far(),
            lines=self._lines.take(),
        )

    async def finish(self) -> RunSpend:
        """End the run in the ledger, and return what it has spent."""
        return await self._sender.quota.end_run()

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

    # --- from crops to requests ---

    async def _dispatch(self) -> None:
        while True:
            window = self._sender.window
            # Half of the requests are in flight; pictures and records of the others are made meanwhile. While
            # requests fail, only one at a time finds out whether the server works again.
            most = 1 if self._failing else 2 * window
            waiting, a_request = len(self._waiting), self._settings.persons_per_request
            if not self._again and waiting < a_request:
                # A request that isn't full is worth a place in the quota only if the window has room.
                most = min(most, window)
            if self._in_work >= most or not (waiting or self._again):
                self._changed.clear()
                await self._changed.wait()
                continue
            if not self._again and waiting < a_request:
                await asyncio.sleep(_LINGER_S)
            request = self._next()
            if request is None:
                continue
            self._in_work += 1
            task = asyncio.get_running_loop().create_task(self._process(request))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    def _next(self) -> _Request | None:
        """Take the next request: one that has not failed since the last answer, if there is any."""
        for request in self._again:
            if not request.strikes:
                self._again.remove(request)
                return request
        if self._waiting:
            batch = self._waiting[: self._settings.persons_per_request]
            del self._waiting[: len(batch)]
            self._by_key |= {entry.asked.crop.key: entry for entry in batch}
            return _Request(request_of([entry.asked.crop for entry in batch], self._settings.seed))
        if not self._again:
            return None
        first = self._again[0]
        if first.strikes + first.failures >= 2 and self._blank_is_next:
            # Nobody else waits, so only a request without these crops tells whether they are at fault.
            self._blank_is_next = False
            return _Request(blank_request(), is_shown=True)
        return self._again.popleft()

    async def _show(self, request: _Request) -> None:
        """Put the pictures that are sent into a request, and what is too large for it into others."""
        loop = asyncio.get_running_loop()
        crops = request.packed.crops
        shown = await asyncio.gather(
            *(loop.run_in_executor(self._pictures, shown_crop, crop.jpeg, self._settings) for crop in crops)
        )
        pictures = [Crop(crop.key, jpeg) for crop, jpeg in zip(crops, shown, strict=True)]
        first, *others = pack(pictures, len(pictures), self._settings.seed)
        request.packed, request.is_shown = first, True
        self._again.extend(_Request(other, is_shown=True) for other in others)

    def _stop_of(self, error: Exception) -> Stop:
        is_known = isinstance(error, (ShopframeError, *STORAGE_ERRORS))
        text = storage_error_text(error) if is_known else f"{type(error).__name__}: {error}"
        return Stop("unreachable", self._sender.client.scrub(text))

    async def _process(self, request: _Request) -> None:
        """Send a request. Afterwards, each of its crops has an answer or waits in another request."""
        sender = self._sender
        with about_shards((asked.shard_id, asked.attempt) for asked in self._asked(request)):
            try:
                if request.failures > self._settings.retries:
                    self._give_up(request)
                else:
                    if not request.is_shown:
                        await self._show(request)
                    await self._send(request)
            except Stopped as stopped:
                sender.halt(stopped.stop)
            except Exception as error:  # Without this, the callers would wait for ever.
                log.exception("the Gemini stage stopped because of an error")
                sender.halt(self._stop_of(error))
            finally:
                self._in_work -= 1
                if sender.stop is not None:
                    self._give_back(request)
                self._changed.set()

    def _asked(self, request: _Request) -> list[AskedCrop]:
        return [self._by_key[c.key].asked for c in request.packed.crops if c.key in self._by_key]

    def _give_back(self, request: _Request) -> None:
        """Leave the crops of a request and all that wait without an answer, because nothing more is sent."""
        requests = (request, *self._again)
        left = [self._by_key.pop(c.key, None) for request in requests for c in request.packed.crops]
        for entry in [*left, *self._waiting]:
            if entry is not None and not entry.done.done():
                entry.done.cancel()
        self._waiting.clear()
        self._again.clear()
        self._failing.clear()

    async def _send(self, request: _Request) -> None:
        packed, asked = request.packed, self._asked(request)
        try:
            async with self._sender.sending(packed, asked) as answer:
                self._has_answered(request)
                if answer.refusal is None and asked:
                    await self._take(packed, answer)
        except GeminiUnavailableError as error:
            request.strikes += 1
            request.reason = str(error)
            if asked:
                self._again.append(request)
                self._blank_is_next = True
            if request not in self._failing:
                self._failing.append(request)
            return
        if answer.refusal is not None and asked:
            await self._sender.check_arguments(answer.refusal)
            await self._take(packed, answer)

    async def _take(self, packed: PackedRequest, answer: GeminiAnswer) -> None:
        if answer.split_reason is not None:
            log.info("request split: %s", answer.split_reason)
            # The halves go to the end of the queue, so that other requests come first.
            self._again.extend(_Request(half, is_shown=True) for half in halves(packed))
        elif answer.ask_again:
            log.info("asked again about %d of %d persons", len(answer.ask_again), len(packed.crops))
            self._again.append(_Request(packed.part(answer.ask_again), is_shown=True))
        await self._keep(packed, answer)

    def _has_answered(self, request: _Request) -> None:
        """Count the failures before an answer, which shows that the server works."""
        for failed in self._failing:
            failed.failures += failed is not request
            failed.strikes = 0
        self._failing.clear()
        self._blank_is_next = False

    def _give_up(self, request: _Request) -> None:
        packed = request.packed
        if len(packed.crops) > 1:
            log.info("request split: error: %s", request.reason)
            self._again.extend(_Request(half, is_shown=True) for half in halves(packed))
            return
        waiting = self._by_key.pop(packed.crops[0].key)
        annotation = Annotation("error", request.reason)
        waiting.done.set_result(self._entry(annotation, waiting, GeminiAnswer({}), 1))

    # --- answers ---

    async def _keep(self, request: PackedRequest, answer: GeminiAnswer) -> None:
        """Write the answers to the journal, and only then pass them to the callers."""
        # What the request has cost is divided among the persons that got an answer.
        share = len(answer.annotations)
        entries = {
            key: self._entry(annotation, self._by_key[key], answer, share)
            for key, annotation in answer.annotations.items()
        }
        by_object: dict[tuple[str, str], list[JournalEntry]] = defaultdict(list)
        for key, entry in entries.items():
            asked = self._by_key[key].asked
            # A second question may be the same request as the first one, whose answers are paid for, too.
            name = f"{request.key}-again" if asked.is_again else request.key
            by_object[asked.shard_id, name].append(entry)
        await asyncio.gather(
            *(self._write_journal(shard_id, name, group) for (shard_id, name), group in by_object.items())
        )
        for key, entry in entries.items():
            self._by_key.pop(key).done.set_result(entry)

    async def _write_journal(self, shard_id: str, request_key: str, entries: Sequence[JournalEntry]) -> None:
        path = await self._sender.in_thread(write_journal, self._store, shard_id, request_key, entries)
        self._journalled.append(path)
        if len(self._journalled) >= _JOURNALLED:
            paths, self._journalled = self._journalled, []
            await asyncio.to_thread(file_journal, self._store, paths)
            await asyncio.to_thread(merge_egress, self._store, self._sender.announced)

    def _entry(
        self, annotation: Annotation, waiting: _Waiting, answer: GeminiAnswer, share: int
    ) -> JournalEntry:
        asked, cost = waiting.asked, cost_usd(answer.usage, self._settings)
        entry = answered(annotation, crop_sha256(asked.crop.jpeg), answer, share, cost, self._resolved)
        return entry if asked.first is None else better_of(asked.first, entry, self._schema)
