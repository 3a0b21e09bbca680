"""Change a ledger that other holders change too, and begin again if one of them was faster."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from actors.errors import PreconditionError
from actors.gemini.quota.lease import Clock
from actors.gemini.quota.ledger import Ledger, read_ledger
from actors.gemini.quota.place import LedgerPlace, with_earlier, with_key
from actors.gemini.quota.rules import NotNow, current, is_ahead

log = logging.getLogger(__name__)

_TRIES = 30
"""Maximum attempts at one write. An attempt fails only if another holder's write succeeded."""

Answer = TypeVar("Answer")


class SharedLedger:
    """One holder's access to a ledger. Its calls must not overlap.

    Attributes:
        last_seen: The ledger as it was last read or written.

    Args:
        place: The place of the ledger.
        key_id: Hash of the API key, which is recorded, or "".
        clock: Source of the time.
    """

    def __init__(self, place: LedgerPlace, key_id: str, clock: Clock) -> None:
        self.last_seen = Ledger()
        self._place = place
        self._key_id = key_id
        self._clock = clock
        self._name = uuid.uuid4().hex[:12]
        self._known: tuple[Ledger, str | None] | None = None
        self._earlier: dict[str, Ledger] | None = None
        self._warned = False

    async def update(
        self, change: Callable[[Ledger, float], tuple[Ledger, Answer]], knows_time: bool = True
    ) -> Answer:
        """Read, change and write the ledger, and start again if another holder writes in between.

        Args:
            change: Takes the ledger, without what is outdated, and the time. It returns the changed ledger
                and an answer for the caller, and may be called several times.
            knows_time: Whether the clock agrees with the server's. Otherwise, nothing counts as outdated.

        Raises:
            PreconditionError: Other holders won every attempt at a write.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PreconditionError),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            stop=stop_after_attempt(_TRIES),
            sleep=self._clock.sleep,
            reraise=True,
        )
        try:
            return await retrying(self._try_update, change, knows_time)
        except PreconditionError as error:
            raise PreconditionError(
                f"{self._place.uri}: {_TRIES} attempts to write failed because other jobs wrote first; let "
                "fewer jobs share one project and model"
            ) from error

    async def has_leases(self) -> bool:
        """Return whether the ledger has requests of earlier holders, however old."""
        stored, _ = await asyncio.to_thread(self._read)
        return bool(stored.leases)

    async def _try_update(
        self, change: Callable[[Ledger, float], tuple[Ledger, Answer]], knows_time: bool
    ) -> Answer:
        remembered = self._known is not None
        if self._known is None:
            self._known = await asyncio.to_thread(self._read)
        if self._earlier is None:
            self._earlier = await asyncio.to_thread(self._place.earlier_ledgers)
        stored, etag = self._known
        now = self._clock.now()
        before = current(stored, now) if knows_time else stored
        after, answer = change(with_earlier(before, self._earlier, now), now)
        if remembered and isinstance(answer, NotNow):
            # Other holders may have returned requests since the ledger was read. A write would have failed
            # on the old version, but a refusal writes nothing, so the ledger is read again.
            self._known = None
            return await self._try_update(change, knows_time)
        ahead = knows_time and is_ahead(stored, now)
        if ahead and not self._warned:
            self._warned = True
            log.warning(
                "%s: written by a machine with its clock ahead of this one; synchronise the clocks",
                self._place.uri,
            )
        if ahead or after != before:
            await self._write(with_key(after, self._key_id, now), stored.revision + 1, etag)
        return answer

    async def _write(self, ledger: Ledger, revision: int, etag: str | None) -> None:
        ledger = ledger.model_copy(update={"revision": revision, "writer": self._name, "schema_version": "2"})
        content = ledger.model_dump_json(indent=1).encode()
        store, path = self._place.store, self._place.path
        # Until the store answers, it is unknown which version it holds.
        self._known = None
        if etag is None:
            new_etag = await asyncio.to_thread(store.create, path, content)
        else:
            new_etag = await asyncio.to_thread(store.replace, path, content, etag)
        self._known, self.last_seen = (ledger, new_etag), ledger

    def _read(self) -> tuple[Ledger, str | None]:
        found = read_ledger(self._place.store, self._place.path)
        if found is None:
            # If the ledger was deleted during the run, the last version seen here is written again.
            return self.last_seen, None
        self.last_seen = found[0]
        return found
