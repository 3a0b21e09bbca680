"""Send requests to Gemini, each one once, when the quota and the run's budget allow.

A request is counted, recorded and sent in this order, so a kill at any point loses at most the answers in
flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

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
from actors.gemini.egress_log import egress_of, record_egress
from actors.gemini.protocol import AskedCrop, Progress, Stop
from actors.gemini.quota.breaker import LASTING_S, LONGEST_WAIT_S
from actors.gemini.quota.quota import Clock, NotNow, Patience, Quota, Reservation, SystemClock, key_id_of
from actors.gemini.quota.server_time import ServerTime
from actors.gemini.settings import GeminiSettings, ResolvedGemini
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.time_text import duration, moment

log = logging.getLogger(__name__)

_ANSWER_MARGIN_S = 15.0
"""Time from the reservation of a request to its sending, and from its time-out to the record of it."""


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
        self._settings = settings
        self._resolved = resolved
        self._schema = schema
        self._store = store
        self._output = OutputEstimate()
        self._steps = 0
        self._waits: dict[int, NotNow] = {}
        self._ended = asyncio.Event()
        self._synchronised = False
        self._synchronising = asyncio.Lock()
        self._checking = asyncio.Lock()

    def progress(self) -> Progress:
        """Return what has moved so far, and for how long the sender waits on purpose."""
        until = max((wait.until for wait in self._waits.values()), default=0.0)
        reason = next((wait.reason for wait in self._waits.values() if wait.until == until), "")
        return Progress(self._steps, max(0.0, until - self.time.now()), reason)

    async def send(self, request: PackedRequest, asked: Sequence[AskedCrop]) -> GeminiAnswer:
        """Send a request when the quota allows.

        Args:
            request: The request.
            asked: Its crops, for the egress log. A request without persons has none.

        Raises:
            Stopped: The run sends nothing more.
            GeminiUnavailableError: The request was not answered. The quota then lets through one request at
                a time, until one is answered.
            OSError: The store can't be reached. Other errors of a store are possible too.
        """
        await self._synchronise()
        while True:
            reservation = await self._reserve(request)
            if asked:
                egress = egress_of(request.key, asked, self._resolved.model, self.time.now())
                await asyncio.to_thread(record_egress, self._store, egress)
            if self.time.now() > reservation.send_by:
                # Writing the record took so long that the server could count this request in a later window.
                await self.quota.release(reservation)
                continue
            try:
                answer = await self._ask(request, reservation)
            finally:
                self._steps += 1
                self._ended.set()
                self._ended = asyncio.Event()
            if answer is not None:
                return answer

    async def check_arguments(self, refusal: str) -> None:
        """Find out whether a refusal concerns the crops or the arguments that all requests have in common.

        Google rarely says which. If it has answered no request yet, it is asked about a blank image, which
        costs one request. If it refuses this one too, no request will be answered.

        Raises:
            Stopped: The arguments are refused.
        """
        async with self._checking:
            if self.client.has_answered or self.stop is not None:
                return
            try:
                answer = await self.send(blank_request(), ())
            except GeminiUnavailableError:
                return
            if answer.refusal is not None:
                reason = f"{refusal}; a blank image was refused too: {remedy_of(refusal)}"
                raise Stopped(Stop("refused", reason))

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

    async def _ask(self, request: PackedRequest, reservation: Reservation) -> GeminiAnswer | None:
        """Send a reserved request. Returns None if it was refused for now."""
        try:
            answer = await self.client.ask(request)
        except GeminiRateLimitedError as error:
            log.info("Gemini answered 429: %s", error)
            await self.quota.refused(reservation, error.per_day, error.retry_after_s)
            return None
        except GeminiRefusedError as error:
            if error.may_be_counted:
                await self.quota.settle(reservation, 0)
            else:
                await self.quota.release(reservation)
            raise Stopped(Stop("refused", str(error))) from None
        except GeminiUnavailableError as error:
            log.info("not answered: %s", error)
            lasted_s = await self.quota.failed(
                reservation, error.retry_after_s, error.may_be_billed, error.was_sent
            )
            if lasted_s < LASTING_S:
                raise
            reason = f"{error}; nothing was answered for {duration(lasted_s)}: run again later"
            raise Stopped(Stop("unreachable", reason)) from None
        usage = answer.usage
        self._output.add(len(request.crops), usage)
        await self.quota.settle(reservation, usage.input, cost_usd(usage, self._settings))
        return answer

    async def _reserve(self, request: PackedRequest) -> Reservation:
        settings = self._settings
        tokens = estimate_input_tokens(request, settings, self._resolved, self._schema)
        cost = request_cost(tokens, len(request.crops), self._output, settings)
        while True:
            if self.stop is not None:
                raise Stopped(self.stop)
            ended = self._ended
            try:
                granted = await self.quota.reserve(tokens, cost, settings.max_cost_usd)
            except PreconditionError as error:
                log.warning("%s", error)
                continue
            if not isinstance(granted, NotNow):
                return granted
            if granted.reason == "budget":
                raise Stopped(Stop("budget", f"gemini.max_cost_usd={settings.max_cost_usd:g} is spent"))
            if granted.reason == "budget_in_flight":
                await ended.wait()
                continue
            if granted.reason == "per_day" and settings.on_daily_quota == "park":
                reason = f"the day's quota is spent; it resets at {moment(granted.until)}"
                raise Stopped(Stop("daily_quota", reason, granted.until))
            await self._wait(granted)

    async def _wait(self, granted: NotNow) -> None:
        key = id(granted)
        self._waits[key] = granted
        try:
            await self.time.sleep(max(granted.until - self.time.now(), 0.01))
        finally:
            del self._waits[key]
