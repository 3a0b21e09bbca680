"""Claims, with which runs that share an output divide the work without seeing each other.

A claim is an object in the bucket that names its holder. A living holder changes an object of its own every
few seconds. Other runs decide whether a holder is dead with their own clock alone, because the clocks of
machines differ. A holder that is paused for so long that it counts as dead, and then goes on, doesn't know
that its claim was taken over. A claim therefore avoids double work and double cost, but it is not a lock, and
the correctness of commits doesn't depend on it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Literal

from actors.errors import OutputError, PreconditionError
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

log = logging.getLogger(__name__)

BEAT_S = 5.0
"""Seconds between two heartbeats of a holder."""

_DEAD_AFTER_S = 20.0
"""A holder counts as dead when its heartbeat has not changed for this number of seconds. A few heartbeats may
be late on a busy machine or store."""

_LOOK_EVERY_S = 0.5

Claim = Literal["ours", "theirs", "unknown"]
"""Result of trying to claim something: `ours` if this holder has the claim, `theirs` if another living holder
has it, and `unknown` if it isn't known yet which of the two is the case."""


@dataclass(frozen=True, slots=True)
class _Seen:
    beat: bytes
    first_seen: float
    lives: bool


class Claims:
    """The claims of one holder. Safe to use from several threads.

    Args:
        store: The output.
        holder: Name of the holder. It is the name of a run, so that restarted workers keep the run's claims.
    """

    def __init__(self, store: ObjectStore, holder: str) -> None:
        self._store = store
        self._holder = holder
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def take(self, name: str) -> Claim:
        """Try to claim `name`.

        Call it again while the result is "unknown". It takes at most 20 s to find out.

        Raises:
            OutputError: The object in the claim's place is not a claim.
            OSError: The store can't be read or written.
        """
        self._begin_to_beat()
        path = layout.claim_path(name)
        ours = json.dumps({"holder": self._holder, "claim": uuid.uuid4().hex}).encode()
        try:
            self._store.create(path, ours)
        except PreconditionError:
            try:
                content, etag = self._store.read_with_etag(path)
            except FileNotFoundError:  # The claim was released just now.
                return "unknown"
        else:
            return "ours"
        try:
            holder = str(json.loads(content)["holder"])
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{self._store.full(path)}: not a claim of this version; delete it") from error
        if holder == self._holder:
            return "ours"
        verdict = self._look_at(holder)
        if verdict is not None:
            return verdict
        try:
            self._store.replace(path, ours, etag)
        except PreconditionError:
            return "unknown"
        log.info("took over %s from a run that died", name)
        return "ours"

    def release(self, name: str) -> None:
        """Release a claim, so that others can take it. Raises OSError if the store can't be written."""
        self._store.delete([layout.claim_path(name)])

    def appear(self) -> None:
        """Show others that this holder is alive, before it claims anything.

        Raises:
            OSError: The store can't be written.
        """
        self._begin_to_beat()

    def others(self) -> list[str]:
        """Return living holders beside this one. It takes at most 20 s to find out that there are none.

        Raises:
            OSError: The store can't be read.
        """
        prefix = f"{layout.HOLDERS}/"
        names = [info.path.removeprefix(prefix) for info in self._store.list(layout.HOLDERS)]
        return self._living([name for name in names if name != self._holder])

    def is_held(self, name: str) -> bool:
        """Return whether another living holder has this claim. It takes at most 20 s to find out.

        Raises:
            OSError: The store can't be read.
        """
        try:
            holder = str(json.loads(self._store.read(layout.claim_path(name)))["holder"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False
        return bool(self._living([holder]))

    def _living(self, holders: list[str]) -> list[str]:
        while True:
            verdicts = {holder: self._look_at(holder) for holder in holders}
            living = [holder for holder, verdict in verdicts.items() if verdict == "theirs"]
            if living or "unknown" not in verdicts.values():
                return living
            time.sleep(_LOOK_EVERY_S)

    def close(self) -> None:
        """Stop the heartbeat. Call this when all claims are released."""
        self._ended.set()
        if self._beating is None:
            return
        self._beating.join()
        try:
            self._store.delete([layout.holder_path(self._holder)])
        except STORAGE_ERRORS as error:
            # Others see that it no longer changes. An error here would hide the one that ended the run.
            log.warning("can't delete the heartbeat of this run: %s", storage_error_text(error))

    def _look_at(self, holder: str) -> Claim | None:
        """Return "theirs" or "unknown" for the claim of another holder, or None if the holder is dead."""
        now = time.monotonic()
        try:
            beat = self._store.read(layout.holder_path(holder))
        except FileNotFoundError:
            return None
        with self._lock:
            before = self._seen.get(holder)
            if before is None:
                self._seen[holder] = _Seen(beat, now, lives=False)
                return "unknown"
            if before.beat != beat:
                before = self._seen[holder] = _Seen(beat, now, lives=True)
        if now - before.first_seen < _DEAD_AFTER_S:
            return "theirs" if before.lives else "unknown"
        return None

    def _begin_to_beat(self) -> None:
        with self._lock:
            if self._beating is None:
                self._beat()
                self._beating = threading.Thread(target=self._keep_beating, daemon=True, name="claims")
                self._beating.start()

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self._beat()
            except STORAGE_ERRORS as error:
                log.warning(
                    "can't write the heartbeat of this run, so others may take over its claims: %s",
                    storage_error_text(error),
                )

    def _beat(self) -> None:
        self._store.write(layout.holder_path(self._holder), uuid.uuid4().hex.encode())
