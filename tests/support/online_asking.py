"""Ask the annotator of online mode about crops in this process, on the clock of the local server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.gemini.api.packing import Crop
from actors.gemini.online import OnlineAnnotator
from actors.gemini.protocol import Answers, AskedCrop
from actors.gemini.quota.ledger import RunSpend
from actors.gemini.settings import resolve_gemini
from actors.storage.object_store import ObjectStore
from tests.servers.gemini_clock import ServerClock
from tests.servers.gemini_server import GeminiServer
from tests.support.gemini_asking import SCHEMA, jpeg, settings_for


class StandingClock:
    """The server's clock, which a wait sets forward, plus a constant error."""

    def __init__(self, clock: ServerClock, ahead_s: float = 0.0) -> None:
        self._clock = clock
        self._ahead_s = ahead_s

    def now(self) -> float:
        return self._clock.now() + self._ahead_s

    async def sleep(self, seconds: float) -> None:
        self._clock.advance(seconds)
        # Other tasks get their turn, as they do during a real wait.
        await asyncio.sleep(0)


def asked(images: Sequence[bytes], shard: str = "shard") -> list[AskedCrop]:
    return [AskedCrop(shard, Crop(f"{shard}/frame/{n}", image)) for n, image in enumerate(images)]


def annotator(
    folder: Path | str, server: GeminiServer, run_id: str = "run", ahead_s: float = 0.0, **changes: Any
) -> OnlineAnnotator:
    """Return an annotator. GEMINI_API_KEY must be set."""
    settings = settings_for(server.base_url, **{"requests_per_minute": 1000, **changes})
    resolved = resolve_gemini(settings, SCHEMA)
    clock = StandingClock(server.clock, ahead_s)
    return OnlineAnnotator(settings, resolved, SCHEMA, ObjectStore(str(folder)), clock, run_id)


def ask_and_finish(
    folder: Path | str,
    server: GeminiServer,
    monkeypatch: pytest.MonkeyPatch,
    images: int | Sequence[bytes],
    **changes: Any,
) -> tuple[Answers, RunSpend]:
    """Return the annotator's answers to these images, or to so many different ones, and what it has spent."""
    monkeypatch.setenv("GEMINI_API_KEY", server.key)
    shown = [jpeg(number) for number in range(images)] if isinstance(images, int) else images

    async def run() -> tuple[Answers, RunSpend]:
        one = annotator(folder, server, **changes)
        return await one.ask(asked(shown)), await one.finish()

    return asyncio.run(run())


def ask(*arguments: Any, **changes: Any) -> Answers:
    """Return the annotator's answers; see `ask_and_finish`."""
    return ask_and_finish(*arguments, **changes)[0]
