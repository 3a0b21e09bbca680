"""The quota of a Gemini project. Each request is counted in the bucket before it is sent.

The existing libraries for rate limits don't fit: `limits` and `pyrate-limiter` keep their counts in
databases and not in objects that are written conditionally, `aiolimiter` stores no counts, and none of
them can correct a count afterwards. This module therefore implements its own windows and uses tenacity for
retries.

    place = ledger_place(output, ledger_uri, project, model)
    quota = Quota(place, limits, key_id_of(api_key))
    granted = await quota.reserve(estimated_tokens)    # a Reservation, or NotNow with a time and a reason
    ...                                                # send the request
    await quota.settle(granted, prompt_token_count)    # or quota.refused(granted, per_day=True)

A reserved request stays counted even if the process is killed or the request times out, because it may
have reached the server. With large quotas, one write of the ledger counts several requests as a lease
(see `rules.largest_lease`). The clocks of machines that share a ledger must agree within
`rules.ARRIVAL_MARGIN_S`.
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
from actors.gemini.quota.place import LedgerPlace, ledger_place, with_earlier, with_key
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

__all__ = ["Clock", "LedgerPlace", "NotNow", "Quota", "QuotaLimits", "QuotaStatus", "Reservation"]
__all__ += ["SystemClock", "key_id_of", "ledger_place"]

log = logging.getLogger(__name__)

_TRIES = 30
"""Maximum attempts at one write. An attempt fails only if another holder's write succeeded."""

_Answer = TypeVar("_Answer")


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
    """

    def __init__(
        self, place: LedgerPlace, limits: QuotaLimits, key_id: str = "", clock: Clock | None = None
    ) -> None:
        self.limits = limits
        self.clock: Clock = clock or SystemClock()
        self._place = place
        self._store, self._path = place.store, place.path
        self._key_id = key_id
        self._earlier: dict[str, Ledger] | None = None
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
            tokens: Estimated input tokens of the request, at least 1.

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
            reservation = self._hand_out(tokens)
            if reservation is not None:
                return reservation
            granted = await self._update(lambda ledger, now: self._grant(ledger, now, tokens))
            if isinstance(granted, NotNow):
                return granted
            return self._hand_out(tokens) or self._too_late(granted)

    async def settle(self, reservation: Reservation, tokens: int) -> None:
        """Correct a request's input tokens to the server's count (`usageMetadata.promptTokenCount`).

        A count above the estimate is written at once, and a lower count with the next write. A request
        that has left the window is no longer corrected.
        """
        async with self._lock:
            held = self._held.get(reservation.lease_id)
            if held is not None and reservation.number in held.tokens:
                held.tokens[reservation.number] = tokens
                await self._correct(held)

    async def release(self, reservation: Reservation) -> None:
        """Return a request of which certainly nothing was sent.

        Call this within a minute. A request that has left the window stays counted for its day.
        """
        async with self._lock:
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
            self._finish_live()
            at = reservation.reserved_at
            await self._update(
                lambda ledger, now: (with_refusal(ledger, now, at, per_day, retry_after_s), None)
            )

    async def return_unused(self) -> None:
        """Return the unused part of the lease and write any outstanding corrections to the ledger.

        Call this when there is nothing more to send for now. You can reserve again afterwards.
        """
        async with self._lock:
            self._finish_live()
            if self._untold:
                await self._update(lambda ledger, _: (ledger, None))

    async def status(self) -> QuotaStatus:
        """Return the status of the quota from the current ledger."""
        now = self.clock.now()
        return await asyncio.to_thread(read_status, self._place, self.limits, now)

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
        # The next lease is sized by the use of this one, so that a slow sender holds and wastes few requests.
        self._lease_size = 2 * used if used == self._live.lease.requests else max(1, used)
        self._untold.add(self._live.lease.lease_id)
        self._live = None

    def _too_late(self, lease: Lease) -> NotNow:
        log.warning(
            "%s: the ledger was updated too late to send the request; check whether the store is slow",
            self._path,
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

    # --- the ledger ---

    async def _update(self, change: Callable[[Ledger, float], tuple[Ledger, _Answer]]) -> _Answer:
        """Read, change and write the ledger, and start again if another holder writes in between."""
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
                f"{self._store.full(self._path)}: {_TRIES} attempts to write failed because other jobs wrote "
                "first; let fewer jobs share one project and model"
            ) from error

    async def _try_update(self, change: Callable[[Ledger, float], tuple[Ledger, _Answer]]) -> _Answer:
        remembered = self._known is not None
        if self._known is None:
            self._known = await asyncio.to_thread(self._read)
        if self._earlier is None:
            self._earlier = await asyncio.to_thread(self._place.earlier_ledgers)
        stored, etag = self._known
        now = self.clock.now()
        before = current(stored, now)
        told = [self._held[lease_id] for lease_id in self._untold]
        known = with_use(with_earlier(before, self._earlier, now), [held.use() for held in told])
        after, answer = change(known, now)
        if remembered and isinstance(answer, NotNow):
            # Other holders may have returned requests since the ledger was read. A write would have failed
            # on the old version, but a refusal writes nothing, so the ledger is read again.
            self._known = None
            return await self._try_update(change)
        ahead = is_ahead(stored, now)
        if ahead and not self._warned:
            self._warned = True
            log.warning(
                "%s: written by a machine with its clock ahead of this one; synchronise the clocks",
                self._path,
            )
        if ahead or after != before:
            after = with_key(after, self._key_id, now)
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
        # Until the store answers, it is unknown which version it holds.
        self._known = None
        if etag is None:
            new_etag = await asyncio.to_thread(self._store.create, self._path, content)
        else:
            new_etag = await asyncio.to_thread(self._store.replace, self._path, content, etag)
        self._known, self._last_seen = (ledger, new_etag), ledger

    def _read(self) -> tuple[Ledger, str | None]:
        found = read_ledger(self._store, self._path)
        if found is None:
            # If the ledger was deleted during the run, the last version seen here is written again.
            return self._last_seen, None
        self._last_seen = found[0]
        return found

    def _forget_old(self, now: float) -> None:
        for lease_id, held in list(self._held.items()):
            if held is not self._live and leaves_at(held.lease) < now:
                del self._held[lease_id]
