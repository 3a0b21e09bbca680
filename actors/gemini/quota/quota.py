"""The quota of a Gemini project. Each request is counted in the bucket before it is sent.

The existing libraries for rate limits don't fit: `limits` and `pyrate-limiter` keep their counts in
databases and not in objects that are written conditionally, `aiolimiter` stores no counts, and none of
them can correct a count afterwards. This module therefore implements its own windows and uses tenacity for
retries.

    place = ledger_place(output, ledger_uri, project, model)
    quota = Quota(place, limits, key_id_of(api_key))
    granted = await quota.reserve(estimated_tokens)    # a Reservation, or NotNow with a time and a reason
    ...                                                # send the request
    await quota.settle(granted, prompt_token_count)    # or quota.refused(...), quota.failed(...)

A reserved request stays counted even if the process is killed or the request times out, because it may
have reached the server. With large quotas, one write of the ledger counts several requests as a lease
(see `rules.largest_lease`). The clocks of machines that share a ledger must agree within
`rules.ARRIVAL_MARGIN_S`, which `ServerTime` takes care of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from actors.errors import ConfigError
from actors.gemini.quota.breaker import with_answers, with_failure, with_probe, without_advice
from actors.gemini.quota.lease import Clock, HeldLease, Reservation, SystemClock
from actors.gemini.quota.ledger import Lease, Ledger, RunSpend, key_id_of, pacific_day, reset_of
from actors.gemini.quota.place import LedgerPlace, ledger_place
from actors.gemini.quota.rules import (
    NotNow,
    QuotaLimits,
    grant,
    largest_lease,
    leaves_at,
    with_lease,
    with_refusal,
    with_use,
)
from actors.gemini.quota.shared_ledger import Answer, SharedLedger
from actors.gemini.quota.spend import (
    NO_COST,
    RequestCost,
    SpendChange,
    affordable,
    answered,
    sent,
    timed_out,
    unbilled,
    with_begun_run,
    with_ended_run,
    with_spend,
)
from actors.gemini.quota.status import QuotaStatus, read_status, status_of

__all__ = ["Clock", "LedgerPlace", "NotNow", "Quota", "QuotaLimits", "QuotaStatus", "Reservation"]
__all__ += ["Patience", "SystemClock", "key_id_of", "ledger_place"]

log = logging.getLogger(__name__)


_NEAR_S = 3600.0
"""Midnight is near within this time of it. A clock that is wrong by more is not expected."""


@dataclass(frozen=True, slots=True)
class _Granted:
    lease: Lease
    at: float


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the holders of a quota wait.

    Attributes:
        longest_wait_s: Longest pause after a failure, in seconds.
        answer_s: Longest time from the reservation of a request to its answer, in seconds.
    """

    longest_wait_s: float = 300.0
    answer_s: float = 120.0


class Quota:
    """One holder's access to the quota of a project and a model.

    Any number of holders on any machines may share a ledger, and they never overspend the quota together.
    Methods may be called concurrently within one event loop. All of them raise `OSError` (or another of
    `STORAGE_ERRORS`) if the store can't be reached, `PreconditionError` if other holders won every attempt
    at a write, and `OutputError` if the ledger is unreadable. After such an error, nothing may be sent.

    Args:
        place: The place of the ledger, from `ledger_place`.
        limits: The configured limits.
        key_id: Hash of the API key from `key_id_of`, which is only recorded.
        clock: Source of the time; by default this machine's clock.
        run_id: Run that the cost of requests is counted for, or "" to count no cost.
        patience: How long to wait for answers and after failures.
    """

    def __init__(
        self,
        place: LedgerPlace,
        limits: QuotaLimits,
        key_id: str = "",
        clock: Clock | None = None,
        run_id: str = "",
        patience: Patience | None = None,
    ) -> None:
        self.limits = limits
        self.clock: Clock = clock or SystemClock()
        self._place = place
        self._store, self._path = place.store, place.path
        self._key_id = key_id
        self.run_id = run_id
        self._patience = patience or Patience()
        self._earlier: dict[str, Ledger] | None = None
        self._ledger = SharedLedger(place, key_id, self.clock)
        self._lock = asyncio.Lock()
        self._live: HeldLease | None = None
        self._held: dict[str, HeldLease] = {}
        self._untold: set[str] = set()
        self._lease_size = 1
        self._spend = SpendChange()
        self._answers = 0
        self._in_flight: set[tuple[str, int]] = set()

    async def reserve(
        self, tokens: int, cost: RequestCost = NO_COST, budget_usd: float | None = None
    ) -> Reservation | NotNow:
        """Count one request before it is sent.

        Args:
            tokens: Estimated input tokens of the request, at least 1.
            cost: Cost of the request before it is sent, which is counted for the run.
            budget_usd: Amount from which the run may send no more. The run can exceed it by one request.

        Returns:
            A reservation, which allows sending the request until `Reservation.send_by`, or a `NotNow` that
            says when to ask again and why.

        Raises:
            ConfigError: The request has more tokens than the configured limit per minute.
        """
        if tokens < 1:
            raise ValueError(f"tokens is {tokens}, but a request has at least 1 input token")
        if self.limits.tokens_per_minute is not None and tokens > self.limits.tokens_per_minute:
            raise ConfigError(
                f"gemini.tokens_per_minute={self.limits.tokens_per_minute}: a request of about {tokens} "
                "input tokens can never be sent; lower gemini.persons_per_request or raise the limit"
            )
        async with self._lock:
            reservation = self._hand_out(tokens, cost)
            if reservation is not None:
                return reservation
            granted = await self._update(
                lambda ledger, now: self._grant(ledger, now, tokens, cost, budget_usd)
            )
            if isinstance(granted, NotNow):
                return granted
            self._live = HeldLease(granted.lease, granted.at, granted.at, granted.lease.tokens, cost)
            self._held[granted.lease.lease_id] = self._live
            return self._hand_out(tokens, cost) or self._too_late(granted.lease)

    async def settle(self, reservation: Reservation, tokens: int, cost_usd: float = 0.0) -> None:
        """Record an answer, with the server's count of its input tokens (`usageMetadata.promptTokenCount`).

        A count above the estimate is written at once, and a lower count with the next write. A request
        that has left the window is no longer corrected.

        Args:
            reservation: Reservation of the answered request.
            tokens: Input tokens as counted by the server, or 0 if it reported none.
            cost_usd: Cost by the server's counts.
        """
        async with self._lock:
            self._end(reservation, answered(reservation.cost, cost_usd))
            self._answers += 1
            held = self._held.get(reservation.lease_id)
            if tokens and held is not None and reservation.number in held.tokens:
                held.tokens[reservation.number] = tokens
                await self._correct(held)

    async def release(self, reservation: Reservation) -> None:
        """Return a request of which certainly nothing was sent.

        Call this within a minute. A request that has left the window stays counted for its day.
        """
        async with self._lock:
            known = (reservation.lease_id, reservation.number) in self._in_flight
            self._end(reservation, unbilled(reservation.cost) if known else SpendChange())
            held = self._held.get(reservation.lease_id)
            if held is not None and held.tokens.pop(reservation.number, None) is not None:
                await self._correct(held)

    async def refused(
        self, reservation: Reservation, per_day: bool, retry_after_s: float | None = None
    ) -> None:
        """Record a response with status 429 for all holders; see `rules.with_refusal`.

        The refused request stays counted, since the server may have counted it too.

        Args:
            reservation: Reservation of the refused request.
            per_day: Whether the limit per day was exceeded, as opposed to one of the limits per minute.
            retry_after_s: How long the server said to wait, in seconds. It is ignored with `per_day`, since
                that refusal lasts until midnight.
        """
        async with self._lock:
            self._end(reservation, unbilled(reservation.cost))
            self._finish_live()
            at = reservation.reserved_at
            await self._update(
                lambda ledger, now: (with_refusal(ledger, now, at, per_day, retry_after_s), None)
            )

    async def failed(
        self,
        reservation: Reservation,
        retry_after_s: float | None = None,
        may_be_billed: bool = False,
        was_sent: bool = True,
    ) -> float:
        """Record for all holders that a request was not answered, for a reason that may be temporary.

        The request stays counted if it was sent, since the server may have counted it too.

        Args:
            reservation: Reservation of the failed request.
            retry_after_s: How long the server said to wait, in seconds.
            may_be_billed: Whether the server may answer and bill the request nevertheless.
            was_sent: Whether the request can have reached the server.

        Returns:
            For how many seconds no request has been answered.
        """
        longest_s = self._patience.longest_wait_s

        def change(ledger: Ledger, now: float) -> tuple[Ledger, float]:
            after = with_failure(ledger, now, reservation.reserved_at, longest_s, retry_after_s)
            return after, now - after.breaker.since

        async with self._lock:
            cost = reservation.cost
            self._end(reservation, timed_out(cost) if may_be_billed else unbilled(cost))
            held = self._held.get(reservation.lease_id)
            if held is not None and not was_sent:
                held.tokens.pop(reservation.number, None)
                self._untold.add(reservation.lease_id)
            self._finish_live()
            return await self._update(change)

    async def reset(self) -> None:
        """Forget that the server declared the day spent, and every pause and lowered limit.

        What was sent stays counted.
        """
        async with self._lock:
            await self._ledger.update(lambda ledger, _: (without_advice(ledger), None), knows_time=False)

    # --- what a run spends ---

    async def begin_run(self, run_id: str, output: str) -> str:
        """Begin a run of an output, or continue the one that has not ended, and return its id."""
        async with self._lock:
            # This comes before the first response, so the clock may be wrong.
            self.run_id = await self._ledger.update(
                lambda ledger, now: with_begun_run(ledger, run_id, output, now), knows_time=False
            )
            return self.run_id

    async def end_run(self) -> RunSpend:
        """Record that the run has ended by itself, and return what it has spent."""
        async with self._lock:
            self._finish_live()
            await self._update(lambda ledger, _: (with_ended_run(ledger, self.run_id), None))
            return self._ledger.last_seen.runs.get(self.run_id, RunSpend(output=""))

    async def spend(self, change: SpendChange) -> RunSpend:
        """Count costs of requests that need no reservation, and return what the run has spent."""
        async with self._lock:
            self._spend += change
            await self._update(lambda ledger, _: (ledger, None))
            return self._ledger.last_seen.runs.get(self.run_id, RunSpend(output=""))

    async def return_unused(self) -> None:
        """Return the unused part of the lease and write any outstanding corrections to the ledger.

        Call this when there is nothing more to send for now. You can reserve again afterwards.
        """
        async with self._lock:
            self._finish_live()
            if self._untold:
                await self._update(lambda ledger, _: (ledger, None))

    async def needs_time(self) -> bool:
        """Return whether a wrong clock could do harm before the first answer corrects it.

        It could if requests were sent before, which may still be in the window, or if midnight is near.
        """
        now = self.clock.now()
        away_s = min(abs(reset_of(pacific_day(at)).timestamp() - now) for at in (now, now - _NEAR_S))
        async with self._lock:
            return away_s < _NEAR_S or await self._ledger.has_leases()

    async def status(self) -> QuotaStatus:
        """Return the status of the quota from the current ledger."""
        now = self.clock.now()
        return await asyncio.to_thread(read_status, self._place, self.limits, now)

    def last_status(self) -> QuotaStatus:
        """Return the status from the ledger as this holder has seen it last, without reading it."""
        return status_of(self._ledger.last_seen, self.limits, self.clock.now())

    # --- leases ---

    def _hand_out(self, tokens: int, cost: RequestCost) -> Reservation | None:
        if self._live is None:
            return None
        reservation = self._live.hand_out(tokens, cost, self.clock.now())
        if reservation is None:
            self._finish_live()
            return None
        self._spend += sent(cost) + unbilled(self._live.cost)
        self._in_flight.add((reservation.lease_id, reservation.number))
        return reservation

    def _end(self, reservation: Reservation, spent: SpendChange) -> None:
        self._in_flight.discard((reservation.lease_id, reservation.number))
        self._spend += spent

    def _grant(
        self, ledger: Ledger, now: float, tokens: int, cost: RequestCost, budget_usd: float | None
    ) -> tuple[Ledger, _Granted | NotNow]:
        wanted = min(self._lease_size, largest_lease(self.limits))
        if budget_usd is not None:
            run = ledger.runs.get(self.run_id, RunSpend(output=""))
            if run.spent_usd >= budget_usd:
                return ledger, NotNow(now, "budget_in_flight" if self._in_flight else "budget")
            wanted = affordable(wanted, budget_usd - run.spent_usd, cost)
        granted = grant(ledger, self.limits, now, tokens, wanted)
        if isinstance(granted, NotNow):
            return ledger, granted
        after = with_probe(with_lease(ledger, granted), now + self._patience.answer_s)
        after = with_spend(after, self.run_id, sent(cost.times(granted.requests)), now)
        return after, _Granted(granted, now)

    def _finish_live(self) -> None:
        if self._live is None:
            return
        used = len(self._live.tokens)
        # The next lease is sized by the use of this one, so that a slow sender holds and wastes few requests.
        self._lease_size = 2 * used if used == self._live.lease.requests else max(1, used)
        self._untold.add(self._live.lease.lease_id)
        self._spend += unbilled(self._live.cost.times(self._live.left))
        self._live = None

    def _too_late(self, lease: Lease) -> NotNow:
        log.warning(
            "%s: the ledger was updated too late to send the request; check whether the store is slow",
            self._place.uri,
        )
        return NotNow(lease.sent_by, "per_minute")

    async def _correct(self, held: HeldLease) -> None:
        more = held.spent_tokens > held.counted_tokens
        if held is self._live:
            if not more:
                return
            self._finish_live()
        self._untold.add(held.lease.lease_id)
        if more:
            await self._update(lambda ledger, _: (ledger, None))

    async def _update(self, change: Callable[[Ledger, float], tuple[Ledger, Answer]]) -> Answer:
        """Change the ledger, and write with the change what it doesn't have yet."""
        told = [self._held[lease_id] for lease_id in self._untold]

        def change_all(ledger: Ledger, now: float) -> tuple[Ledger, Answer]:
            known = with_use(ledger, [held.use() for held in told])
            known = with_answers(known, self._answers)
            return change(with_spend(known, self.run_id, self._spend, now), now)

        answer = await self._ledger.update(change_all)
        for held in told:
            held.counted_tokens = held.spent_tokens
        self._untold.clear()
        self._spend, self._answers = SpendChange(), 0
        self._forget_old(self.clock.now())
        return answer

    def _forget_old(self, now: float) -> None:
        for lease_id, held in list(self._held.items()):
            if held is not self._live and leaves_at(held.lease) < now:
                del self._held[lease_id]
