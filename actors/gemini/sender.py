"""Send requests to Gemini, each one once, when the quota and the run's budget allow.

A request is recorded, counted and sent in this order, so a kill at any point loses at most the answers in
flight. It is recorded while it waits for the quota: a write between counting and sending would use up the
time in which it may be sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from actors.attributes import AttributeSchema
from actors.errors import (
    GeminiRateLimitedError,
    GeminiRefusedError,
    GeminiUnavailableError,
    PreconditionError,
)
from actors.gemini.api.answer import GeminiAnswer
from actors.gemini.api.client import GeminiClient, read_api_key
from actors.gemini.api.packing import PackedRequest
from actors.gemini.api.refused_arguments import blank_request, remedy_of
from actors.gemini.api.tokens import OutputEstimate, cost_usd, estimate_input_tokens, request_cost
from actors.gemini.api.unusable_answers import UnusableAnswers
from actors.gemini.egress_log import egress_of, record_egress
from actors.gemini.in_flight import InFlightWindow
from actors.gemini.protocol import AskedCrop, Progress, Stop
from actors.gemini.quota.breaker import LASTING_S, LONGEST_WAIT_S
from actors.gemini.quota.quota import Clock, NotNow, Patience, Quota, Reservation, SystemClock, key_id_of
from actors.gemini.quota.server_time import ServerTime
from actors.gemini.settings import GeminiSettings, ResolvedGemini
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from actors.time_text import duration, moment

log = logging.getLogger(__name__)

_ANSWER_MARGIN_S = 15.0
"""Time from the reservation of a request to its sending, and from its time-out to the record of it."""

_ANNOUNCED_S = 300.0
"""The record of a request that has waited longer is written again, with the new time."""

_THREADS = 32
"""Number of concurrent calls that wait for the output: records of what is sent, and answers."""

Result = TypeVar("Result")


def begin_run(settings: GeminiSettings, output: ObjectStore, clock: Clock | None = None) -> str:
    """Begin a run of an output in the ledger, or continue the one that has not ended, and return its id.

    Raises:
        OSError: The store can't be reached. Other errors of a store are possible too.
    """
    quota = Quota(settings.ledger_place(output), settings.quota_limits, clock=clock)
    return asyncio.run(quota.begin_run(layout.new_run_id(), output.uri))


def reset_quota(settings: GeminiSettings, output: ObjectStore, clock: Clock | None = None) -> None:
    """Forget that the server declared the day spent, and its pauses. Raises errors as `begin_run` does."""
    quota = Quota(settings.ledger_place(output), settings.quota_limits, clock=clock)
    asyncio.run(quota.reset())


class Stopped(Exception):  # noqa: N818  it carries a reason to the callers and is not an error
    """The run sends nothing more."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.reason)
        self.stop = stop


@dataclass(slots=True)
class _Announced:
    """The record of a request that is about to be sent: its path, or "" if there is none, and its time."""

    key: str
    asked: Sequence[AskedCrop]
    path: str = ""
    at: float = 0.0


class Sender:
    """Sends requests within the quota. Its methods may be called concurrently.

    Args:
        settings: Settings of the requests, and the quota.
        resolved: Model and prompt.
        schema: Schema that the answers must fit.
        store: The output, which holds the egress log.
        clock: This machine's clock, also for waits.
        run_id: Run that the cost is counted for.

    Attributes:
        stop: Why nothing more may be sent, once that is so.
        time: The time by the server's clock.
        client: The client.
        quota: The quota.
        announced: Paths of the records of requests that wait to be sent.

    Raises:
        ConfigError: GEMINI_API_KEY is not set.
        OSError: The output can't be listed.
    """

    def __init__(
        self,
        settings: GeminiSettings,
        resolved: ResolvedGemini,
        schema: AttributeSchema,
        store: ObjectStore,
        clock: Clock | None = None,
        run_id: str = "",
    ) -> None:
        key = read_api_key()
        self.stop: Stop | None = None
        self.time = ServerTime(clock or SystemClock())
        self.client = GeminiClient(settings, resolved, schema, key, self.time)
        longest_s = min(settings.retry_max_wait_s, LONGEST_WAIT_S)
        patience = Patience(longest_s, settings.timeout_s + _ANSWER_MARGIN_S)
        place, key_id = settings.ledger_place(store), key_id_of(key.get_secret_value())
        self.quota = Quota(place, settings.quota_limits, key_id, self.time, run_id, patience)
        self.announced: set[str] = set()
        self._threads = ThreadPoolExecutor(_THREADS, "gemini-output")
        self._settings = settings
        self._resolved = resolved
        self._schema = schema
        self._store = store
        self._output = OutputEstimate()
        self._unusable = UnusableAnswers()
        self._window = InFlightWindow(settings.max_in_flight, settings.quota_limits)
        self._in_flight = 0
        self._is_failing = False
        self._is_doubted = False
        self._turn = asyncio.Lock()
        self._steps = 0
        self._waits: dict[int, NotNow] = {}
        self._changed = asyncio.Event()
        self._synchronised = False
        self._synchronising = asyncio.Lock()
        self._checking = asyncio.Lock()

    @property
    def window(self) -> int:
        """The number of requests that may be in flight now."""
        return self._window.size

    def progress(self) -> Progress:
        """Return what has moved so far, and for how long the sender waits on purpose."""
        until = max((wait.until for wait in self._waits.values()), default=0.0)
        reason = next((wait.reason for wait in self._waits.values() if wait.until == until), "")
        return Progress(self._steps, max(0.0, until - self.time.now()), reason, self._in_flight)

    def begin(self, run_id: str) -> None:
        """Begin or join a run, and forget why the previous run stopped."""
        self.stop, self._unusable = None, UnusableAnswers()
        self.quota.run_id = run_id

    def halt(self, stop: Stop) -> Stop:
        """Send nothing more, and return why: `stop`, or the earlier reason if there is one."""
        self.stop = self.stop or stop
        self._wake()
        return self.stop

    @asynccontextmanager
    async def sending(
        self, request: PackedRequest, asked: Sequence[AskedCrop]
    ) -> AsyncIterator[GeminiAnswer]:
        """Send a request when its turn has come, the window has room, and the quota allows.

        More requests than fit into the window may wait here. Each is recorded as sent while it waits. The
        request counts as in flight until the context ends, so write down its answer in the context: a kill
        then loses no more answers than are in flight.

        Args:
            request: The request.
            asked: Its crops, for the egress log. A request without persons has none.

        Yields:
            The answer.

        Raises:
            Stopped: The run sends nothing more.
            GeminiUnavailableError: The request was not answered. The quota then lets through one request at
                a time, until one is answered.
            OSError: The store can't be reached. Other errors of a store are possible too.
        """
        await self._synchronise()
        answer = None
        while answer is None:
            reservation = await self._wait_for_turn(request, asked)
            sent_at = self.time.local()
            try:
                answer = await self._ask(request, reservation, is_about_persons=bool(asked))
                if answer is None:
                    continue
                yield answer
                # As long as no answer can be used, one request at a time finds out why.
                if answer.refusal is None and answer.problem is None:
                    tokens = answer.usage.input or reservation.tokens
                    self._window.answered(self.time.local() - sent_at, tokens)
            finally:
                self._in_flight -= 1
                self._steps += 1
                self._wake()

    async def check_arguments(self, refusal: str) -> None:
        """Find out whether a refusal concerns the crops or the arguments that all requests have in common.

        Google rarely says which. If it has answered no request yet, it is asked about a blank image, which
        costs one request, and nobody else is asked meanwhile. If it refuses this one too, no request will be
        answered. Call this when the refused request is no longer in flight.

        Raises:
            Stopped: The arguments are refused.
        """
        async with self._checking:
            try:
                if self.client.has_answered or self.stop is not None:
                    return
                async with self.sending(blank_request(), ()) as answer:
                    is_refused = answer.refusal is not None
            except GeminiUnavailableError:
                return
            finally:
                self._is_doubted = False
                self._wake()
            if is_refused:
                reason = f"{refusal}; a blank image was refused too: {remedy_of(refusal)}"
                raise Stopped(self.halt(Stop("refused", reason)))

    async def _synchronise(self) -> None:
        """Learn the server's time before the first request is counted, by a request that costs no quota."""
        async with self._synchronising:
            if self._synchronised:
                return
            try:
                if await self.quota.needs_time():
                    await self.client.learn_time()
            except (GeminiRateLimitedError, GeminiRefusedError, GeminiUnavailableError) as error:
                # A response that refuses has a date too. The first request will say what is wrong.
                log.info("before the first request: %s", error)
            self._synchronised = True

    # --- the way of one request ---

    async def _wait_for_turn(self, request: PackedRequest, asked: Sequence[AskedCrop]) -> Reservation:
        announced = _Announced(request.key, asked)
        try:
            await self._announce(announced)
            if not asked:
                # The others may wait for the answer to this request.
                return await self._take_room(request, announced)
            async with self._turn:
                return await self._take_room(request, announced)
        except BaseException:
            await self._withdraw(announced)
            raise

    async def _take_room(self, request: PackedRequest, announced: _Announced) -> Reservation:
        while self.stop is None and not self._has_room(is_about_persons=bool(announced.asked)):
            await self._changed.wait()
        self._in_flight += 1
        try:
            reservation = await self._reserve(request, announced)
        except BaseException:
            self._in_flight -= 1
            self._wake()
            raise
        self.announced.discard(announced.path)
        return reservation

    def _has_room(self, is_about_persons: bool) -> bool:
        if self._is_doubted and is_about_persons:
            return False
        # While requests fail, only one at a time finds out whether the server works again.
        return self._in_flight < (1 if self._is_failing else self.window)

    async def _reserve(self, request: PackedRequest, announced: _Announced) -> Reservation:
        settings = self._settings
        tokens = estimate_input_tokens(request, settings, self._resolved, self._schema)
        cost = request_cost(tokens, len(request.crops), self._output, settings)
        while True:
            if self.stop is not None:
                raise Stopped(self.stop)
            changed = self._changed
            if announced.path and self.time.now() - announced.at > _ANNOUNCED_S:
                await self._withdraw(announced)
                await self._announce(announced)
            try:
                granted = await self.quota.reserve(tokens, cost, settings.max_cost_usd)
            except PreconditionError as error:
                log.warning("%s", error)
                continue
            if not isinstance(granted, NotNow):
                if self.time.now() <= granted.send_by:
                    return granted
                # This process was so slow that the server could count the request in a later window.
                await self.quota.release(granted)
                continue
            if granted.reason == "budget":
                reason = f"gemini.max_cost_usd={settings.max_cost_usd:g} is spent"
                raise Stopped(self.halt(Stop("budget", reason)))
            if granted.reason == "budget_in_flight":
                await changed.wait()
                continue
            if granted.reason == "per_day" and settings.on_daily_quota == "park":
                reason = f"the day's quota is spent; it resets at {moment(granted.until)}"
                raise Stopped(self.halt(Stop("daily_quota", reason, granted.until)))
            await self._wait(granted)

    async def _wait(self, granted: NotNow) -> None:
        key = id(granted)
        self._waits[key] = granted
        try:
            await self.time.sleep(max(granted.until - self.time.now(), 0.01))
        finally:
            del self._waits[key]

    async def _ask(
        self, request: PackedRequest, reservation: Reservation, is_about_persons: bool
    ) -> GeminiAnswer | None:
        """Send a reserved request. Returns None if it was refused for now."""
        answer = await self._answer_to(request, reservation)
        if answer is None:
            return None
        self._is_failing = False
        is_doubted = answer.refusal is not None and not self.client.has_answered
        self._is_doubted = self._is_doubted or (is_doubted and is_about_persons)
        if is_about_persons and (lasting := self._unusable.note(answer)) is not None:
            self.halt(Stop("invalid", self.client.scrub(lasting)))
        usage = answer.usage
        self._output.add(len(request.crops), usage)
        await self.quota.settle(reservation, usage.input, cost_usd(usage, self._settings))
        return answer

    async def _answer_to(self, request: PackedRequest, reservation: Reservation) -> GeminiAnswer | None:
        try:
            return await self.client.ask(request)
        except GeminiRateLimitedError as error:
            log.info("Gemini answered 429: %s", error)
            await self.quota.refused(reservation, error.per_day, error.retry_after_s)
            return None
        except GeminiRefusedError as error:
            if error.may_be_counted:
                await self.quota.settle(reservation, 0)
            else:
                await self.quota.release(reservation)
            raise Stopped(self.halt(Stop("refused", str(error)))) from None
        except GeminiUnavailableError as error:
            log.info("not answered: %s", error)
            self._is_failing = True
            lasted_s = await self.quota.failed(
                reservation, error.retry_after_s, error.may_be_billed, error.was_sent
            )
            if lasted_s < LASTING_S:
                raise
            reason = f"{error}; nothing was answered for {duration(lasted_s)}: run again later"
            raise Stopped(self.halt(Stop("unreachable", reason))) from None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- the record of what is sent ---

    async def _announce(self, announced: _Announced) -> None:
        """Record that a request is about to be sent."""
        if not announced.asked:
            return
        announced.at = self.time.now()
        egress = egress_of(announced.key, announced.asked, self._resolved.model, announced.at)
        announced.path = await self.in_thread(record_egress, self._store, egress)
        self.announced.add(announced.path)

    async def _withdraw(self, announced: _Announced) -> None:
        """Delete the record of a request that was not sent."""
        if announced.path not in self.announced:
            return
        self.announced.discard(announced.path)
        try:
            await self.in_thread(self._store.delete, [announced.path])
        except STORAGE_ERRORS as error:
            log.warning("a record of a request that was not sent stays: %s", storage_error_text(error))

    async def in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Run a call that waits for the output in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *arguments))
