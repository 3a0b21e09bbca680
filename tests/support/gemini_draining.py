"""Work off Gemini's backlog in the process of the test, with the real parts of a run except for Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors.commit.committer import Committer
from actors.commit.settings import OutputSettings
from actors.detect.crops import CropSettings
from actors.detect.restored_crops import CropRestorer
from actors.gemini.backlog.drain import Drained, ShardDrainer
from actors.gemini.backlog.listing import read_backlog
from actors.gemini.backlog.selection import drain_tasks
from actors.gemini.online import OnlineAnnotator
from actors.gemini.protocol import Answers, AskedCrop
from actors.gemini.settings import GeminiSettings, resolve_gemini
from actors.read.settings import InputSettings
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from jobs.run.resolve import gemini_model
from jobs.run.run_record import read_run, write_run
from tests.servers.gemini_server import GeminiServer
from tests.support.gemini_asking import SCHEMA, settings_for
from tests.support.quota_simulation import SimulatedClock


class KilledError(Exception):
    """The run was killed after its requests were answered, before anything was committed."""


def drainer_of(output: Path, server: GeminiServer, **settings: Any) -> tuple[ShardDrainer, GeminiSettings]:
    """Return what works off the shards of an output, and the settings of the gemini section."""
    given = settings_for(server.base_url, **{"requests_per_minute": 1000, **settings})
    store, resolved = ObjectStore(str(output)), resolve_gemini(given, SCHEMA)
    committer = Committer(
        store, OutputSettings(keep_crops="always"), SCHEMA, {"gemini": resolved.fingerprint}
    )
    restorer = CropRestorer(InputSettings(), StorageSettings(), CropSettings(), None)
    return ShardDrainer(committer, resolved.schema, resolved, given.cameras, restorer), given


def drain(output: Path, server: GeminiServer, is_killed: bool = False, **settings: Any) -> list[Drained]:
    """Work off the shards of the backlog one by one, and return the results.

    Args:
        output: The output. Its `run.json` gets the settings, as in a run.
        server: The server that is asked. GEMINI_API_KEY must be its key.
        is_killed: Whether the run dies before the first shard is committed.
        settings: Settings of the gemini section.
    """
    drainer, given = drainer_of(output, server, **settings)
    store, resolved = drainer.committer.store, drainer.resolved
    run = read_run(store)
    write_run(
        store,
        run.model_copy(
            update={
                "config": {**run.config, "gemini": given.model_dump(mode="json")},
                "fingerprints": {**run.fingerprints, "gemini": resolved.fingerprint},
                "models": run.models.model_copy(update={"gemini": gemini_model(resolved)}),
            }
        ),
    )
    # `status` looks at the quota of today.
    clock = SimulatedClock(datetime.now(UTC).isoformat())

    async def ask(crops: Sequence[AskedCrop]) -> Answers:
        annotator = OnlineAnnotator(given, resolved, resolved.schema, store, clock)
        answers = await annotator.ask(crops)
        await annotator.finish()
        if is_killed:
            raise KilledError
        return answers

    found = []
    tasks = list(drain_tasks(store, given, resolved, read_backlog(store, resolved, given.cameras)))
    for task in tasks:
        found.append(asyncio.run(drainer.drain(task, ask)))
        if found[-1].stop is not None:
            break
        tasks += task.rest(found[-1].waiting)
    return found
