"""The quota of a Gemini project: what may be sent now, counted in the bucket before it is sent.

Of the libraries for rate limits, `limits` and `pyrate-limiter` keep their counts in databases and not in
objects written conditionally, `aiolimiter` keeps none, and in none can a count be corrected afterwards;
so the windows are our own, on tenacity's retries.

    quota = Quota(store, key_id_of(api_key), model, limits)
    granted = await quota.reserve(estimated_tokens)    # a Reservation, or NotNow: when to ask again, and why
    ...                                                # send the request
    await quota.settle(granted, prompt_token_count)    # or quota.refused(granted, per_day=True)

A request is counted for good once it is reserved: killed or timed out, it may have arrived. With large
quotas one write of the ledger counts several requests, a lease (`quota_rules.largest_lease`).
The clocks of machines that share a ledger must agree within `quota_rules.ARRIVAL_MARGIN_S`.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from actors.errors import ConfigError, PreconditionError
from actors.gemini.quota.lease import Clock, HeldLease, Reservation, SystemClock
from actors.gemini.quota.ledger import Lease, Ledger, key_id_of, read_ledger
from actors.gemini.quota.rules import (
    NotNow,
    QuotaLimits,
    current,
    grant,
    is_ahead,
    largest_lease,
    leaves_at,
    with_lease,
    with_refusal,
    with_use,
)
from actors.gemini.quota.status import QuotaStatus, read_status
from actors.storage import layout
from actors.storage.object_store import ObjectStore

__all__ = ["Clock", "NotNow", "Quota", "QuotaLimits", "QuotaStatus", "Reservation"]
__all__ += ["SystemClock", "key_id_of"]

log = logging.getLogger(__name__)

_TRIES = 30
"""Of one write against competing writers; each loss means that another one won."""

_Answer = TypeVar("_Answer")


class Quota:
    """One holder's access to the quota of an API key and a model.

    Any number of holders, on any machines, may share a ledger; none can overspend. Methods may be
    called concurrently within one event loop. All raise `OSError` (or another of `STORAGE_ERRORS`)
    if the store can't be reached, `PreconditionError` if other writers kept winning, and `OutputError` if
    the ledger is unreadable; nothing may be sent then.

    Args:
        store: Where the ledger lies, under `quota/`.
        key_id: From `key_id_of`; never the key itself.
        model: As in the request, with or without "models/".
        limits: As configured.
        clock: This machine's by default.
    """

    def __init__(
        self, store: ObjectStore, key_id: str, model: str, limits: QuotaLimits, clock: Clock | None = None
    ) -> None:
        self.limits = limits
        self.clock: Clock = clock or SystemClock()
        self._store = store
        self._path = layout.quota_path(key_id, model)
        self._name = uuid.uuid4().hex[:12]
        self._lock = asyncio.Lock()
        self._known: tuple[Ledger, str | None] | None = None
        self._last_seen = Ledger()
        self._live: HeldLease | None = None
        self._held: dict[str, HeldLease] = {}
        self._untold: set[str] = set()
        self._lease_size = 1
        self._warned = False

    async def reserve(self, tokens: int) -> Reservation | NotNow:
        """Count one request before it is sent.

        Args:
            tokens: Its estimated input tokens, at least 1.

        Returns:
            The right to send it, within `Reservation.send_by`; or when to ask again, and why.

        Raises:
            ConfigError: The request has more tokens than may ever be sent in a minute.
        """
        if tokens < 1:
            raise ValueError(f"a request of {tokens} input tokens: estimate at least 1")
        if self.limits.tokens_per_minute is not None and tokens > self.limits.tokens_per_minute:
            raise ConfigError(
                f"gemini.tokens_per_minute={self.limits.tokens_per_minute}: a request of about {tokens} "
                "input tokens can never be sent; lower gemini.persons_per_request or raise the limit"
            )
        async with self._lock:
            reservation = self._hand_out(tokens)
            if reservation is not None:
                return reservation
            granted = await self._update(lambda ledger, now: self._grant(ledger, now, tokens))
            if isinstance(granted, NotNow):
                return granted
            return self._hand_out(tokens) or self._too_late(granted)

    async def settle(self, reservation: Reservation, tokens: int) -> None:
        """Correct a request's input tokens by the server's count (`usageMetadata.promptTokenCount`).

        More than was estimated is written at once, less with the next write. Once the request has
        left the window there is nothing to correct.
        """
        async with self._lock:
            held = self._held.get(reservation.lease_id)
            if held is not None and reservation.number in held.tokens:
                held.tokens[reservation.number] = tokens
                await self._correct(held)

    async def release(self, reservation: Reservation) -> None:
        """Give a request back that was surely not sent, not even in part.

        Do so within a minute: one that has left the window stays counted for its day.
        """
        async with self._lock:
            held = self._held.get(reservation.lease_id)
            if held is not None and held.tokens.pop(reservation.number, None) is not None:
                await self._correct(held)

    async def refused(
        self, reservation: Reservation, per_day: bool, retry_after_s: float | None = None
    ) -> None:
        """Obey a 429, for everybody: see `quota_rules.with_refusal`.

        The refused request stays counted, since the server may have counted it too.

        Args:
            reservation: Of the refused request.
            per_day: Whether the server named the limit a day; else it is one of those a minute.
            retry_after_s: How long it said to wait. It has no part in a refusal for the day, which lasts
                until midnight.
        """
        async with self._lock:
            self._finish_live()
            at = reservation.reserved_at
            await self._update(
                lambda ledger, now: (with_refusal(ledger, now, at, per_day, retry_after_s), None)
            )

    async def return_unused(self) -> None:
        """Write what isn't written yet: the unused part of a lease, and corrections.

        Call it when there is nothing more to send for now. Reserving afterwards is fine.
        """
        async with self._lock:
            self._finish_live()
            if self._untold:
                await self._update(lambda ledger, _: (ledger, None))

    async def status(self) -> QuotaStatus:
        """How the quota stands, from the ledger as it is now."""
        now = self.clock.now()
        return await asyncio.to_thread(read_status, self._store, self._path, self.limits, now)

    # --- leases ---

    def _hand_out(self, tokens: int) -> Reservation | None:
        if self._live is None:
            return None
        reservation = self._live.hand_out(tokens, self.clock.now())
        if reservation is None:
            self._finish_live()
        return reservation

    def _grant(self, ledger: Ledger, now: float, tokens: int) -> tuple[Ledger, Lease | NotNow]:
        wanted = min(self._lease_size, largest_lease(self.limits))
        granted = grant(ledger, self.limits, now, tokens, wanted)
        return (ledger, granted) if isinstance(granted, NotNow) else (with_lease(ledger, granted), granted)

    def _begin_live(self, lease: Lease, now: float) -> None:
        self._live = HeldLease(lease, granted_at=now, last_sent_at=now, counted_tokens=lease.tokens)
        self._held[lease.lease_id] = self._live

    def _finish_live(self) -> None:
        if self._live is None:
            return
        used = len(self._live.tokens)
        # As many as were used in the time of a lease, so that a slow sender holds and wastes little.
        self._lease_size = 2 * used if used == self._live.lease.requests else max(1, used)
        self._untold.add(self._live.lease.lease_id)
        self._live = None

    def _too_late(self, lease: Lease) -> NotNow:
        log.warning("%s: counting a request took longer than it may wait; is the store slow?", self._path)
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

    # --- the ledger ---

    async def _update(self, change: Callable[[Ledger, float], tuple[Ledger, _Answer]]) -> _Answer:
        """Read, change, write; again from the start as long as another holder writes in between."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PreconditionError),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            stop=stop_after_attempt(_TRIES),
            sleep=self.clock.sleep,
            reraise=True,
        )
        try:
            return await retrying(self._try_update, change)
        except PreconditionError as error:
            raise PreconditionError(
                f"{self._store.full(self._path)}: lost {_TRIES} times to other writers; "
                "let fewer jobs share one API key and model"
            ) from error

    async def _try_update(self, change: Callable[[Ledger, float], tuple[Ledger, _Answer]]) -> _Answer:
        remembered = self._known is not None
        if self._known is None:
            self._known = await asyncio.to_thread(self._read)
        stored, etag = self._known
        now = self.clock.now()
        before = current(stored, now)
        told = [self._held[lease_id] for lease_id in self._untold]
        after, answer = change(with_use(before, [held.use() for held in told]), now)
        if remembered and isinstance(answer, NotNow):
            # Others may have returned something since; a write would have noticed, a refusal doesn't.
            self._known = None
            return await self._try_update(change)
        ahead = is_ahead(stored, now)
        if ahead and not self._warned:
            self._warned = True
            log.warning("%s: written by a clock ahead of this one; synchronise the clocks", self._path)
        if ahead or after != before:
            await self._write(after, stored.revision + 1, etag)
        for held in told:
            held.counted_tokens = held.spent_tokens
        self._untold.clear()
        self._forget_old(now)
        if isinstance(answer, Lease):
            self._begin_live(answer, now)
        return answer

    async def _write(self, ledger: Ledger, revision: int, etag: str | None) -> None:
        ledger = ledger.model_copy(update={"revision": revision, "writer": self._name})
        content = ledger.model_dump_json(indent=1).encode()
        # Until the store has answered nobody knows which version is there.
        self._known = None
        if etag is None:
            new_etag = await asyncio.to_thread(self._store.create, self._path, content)
        else:
            new_etag = await asyncio.to_thread(self._store.replace, self._path, content, etag)
        self._known, self._last_seen = (ledger, new_etag), ledger

    def _read(self) -> tuple[Ledger, str | None]:
        found = read_ledger(self._store, self._path)
        if found is None:
            # Deleted under a holder, which knows what was spent and writes it again.
            return self._last_seen, None
        self._last_seen = found[0]
        return found

    def _forget_old(self, now: float) -> None:
        for lease_id, held in list(self._held.items()):
            if held is not self._live and leaves_at(held.lease) < now:
                del self._held[lease_id]
