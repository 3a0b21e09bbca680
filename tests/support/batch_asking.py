"""Run the annotator of batch mode in this process, on the clock of the local server."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.commit.committer import Committer
from actors.commit.settings import OutputSettings
from actors.detect.crops import CropSettings
from actors.detect.restored_crops import CropRestorer
from actors.gemini.backlog.drain import ShardDrainer
from actors.gemini.backlog.listing import read_backlog
from actors.gemini.batch import BatchAnnotator
from actors.gemini.protocol import DrainTask, Stop
from actors.gemini.quota.ledger import RunSpend
from actors.gemini.settings import resolve_gemini
from actors.read.settings import InputSettings
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from tests.servers.gemini_server import GeminiServer
from tests.support.gemini_asking import SCHEMA, settings_for
from tests.support.online_asking import StandingClock


class KilledError(BaseException):
    """Ends a run as a kill would, where it waits."""


class DeadlyClock(StandingClock):
    """A clock on which a run dies when it waits for a job."""

    async def sleep(self, seconds: float) -> None:
        raise KilledError


def drainer(store: ObjectStore, server: GeminiServer, **changes: Any) -> ShardDrainer:
    settings = settings_for(server.base_url, **changes)
    resolved = resolve_gemini(settings, SCHEMA)
    fingerprints = {"gemini": resolved.fingerprint, "person_json": OutputSettings().person_json_fingerprint}
    committer = Committer(store, OutputSettings(), SCHEMA, fingerprints, (resolved.pending,))
    restorer = CropRestorer(InputSettings(), StorageSettings(), CropSettings(), None)
    return ShardDrainer(committer, SCHEMA, resolved, settings.cameras, restorer)


def batch_annotator(
    store: ObjectStore, server: GeminiServer, holder: str = "holder", dies: bool = False, **changes: Any
) -> BatchAnnotator:
    """Return an annotator. GEMINI_API_KEY must be set."""
    changes = {"persons_per_request": 4, "retries": 0, **changes}
    clock = (DeadlyClock if dies else StandingClock)(server.clock)
    settings = settings_for(server.base_url, **changes)
    return BatchAnnotator(settings, drainer(store, server, **changes), holder, clock, "run")


def run_batch(
    store: ObjectStore, server: GeminiServer, holder: str = "holder", dies: bool = False, **changes: Any
) -> tuple[Stop | None, RunSpend]:
    """Ask about the whole backlog, and return why the run stopped and what it has spent.

    Raises:
        KilledError: The run died while it waited for a job.
    """
    one = batch_annotator(store, server, holder, dies, **changes)
    found = drainer(store, server, **changes)
    tasks = [DrainTask(s.shard_id) for s in read_backlog(store, found.resolved, found.cameras)]

    async def run() -> tuple[Stop | None, RunSpend]:
        return await one.collect(tasks), await one.finish()

    try:
        return asyncio.run(run())
    finally:
        one._claims.close()
