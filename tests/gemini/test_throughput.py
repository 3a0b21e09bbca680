"""The quota is used to 95 percent at latencies of 2 to 5 s, by as few requests in flight as that takes.

The SDK and the local server speak HTTP in a loop with simulated time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest

from actors.gemini.backlog.admission import MOST_SHARDS, admits_another
from actors.gemini.in_flight import MOST_IN_FLIGHT, InFlightWindow, persons_ahead
from actors.gemini.online import OnlineAnnotator
from actors.gemini.protocol import DrainTask
from actors.gemini.quota.rules import QuotaLimits
from actors.gemini.settings import GeminiSettings, resolve_gemini
from actors.storage.object_store import ObjectStore
from tests.servers.gemini_clock import Limits
from tests.servers.gemini_server import KEY, GeminiServer, gemini_server
from tests.support import gemini_job, without_ray
from tests.support.gemini_asking import SCHEMA, jpeg, settings_for
from tests.support.gemini_job import answered, most_in_a_minute
from tests.support.online_asking import asked
from tests.support.quota_simulation import in_memory
from tests.support.simulated_loop import LoopClock, run_simulated

NOON = datetime.fromisoformat("2026-06-10T12:00:00-07:00").timestamp()
A_SHARD = 5


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@asynccontextmanager
async def serving(answer_s: tuple[float, float], **limits: int | None) -> AsyncIterator[GeminiServer]:
    server = GeminiServer(Limits(**limits), LoopClock(), [], answer_s=answer_s)
    async with server.listening():
        yield server


def annotator(server: GeminiServer, output: ObjectStore, **changes: Any) -> OnlineAnnotator:
    settings = settings_for(server.base_url, **changes)
    return OnlineAnnotator(settings, resolve_gemini(settings, SCHEMA), SCHEMA, output, LoopClock(), "run")


async def ask_for(minutes: int, one: OnlineAnnotator, persons: int) -> None:
    """Ask about shards of a few persons each for some minutes, as many at a time as a run does."""
    loop = asyncio.get_running_loop()
    ends_at, shard = NOON + 60 * minutes, 0
    asking: dict[asyncio.Task[object], DrainTask] = {}
    while (left_s := ends_at - loop.time()) > 0:
        while admits_another(asking.values(), persons):
            crops = [jpeg(shard * A_SHARD + n, 16, 32) for n in range(A_SHARD)]
            task = DrainTask(f"shard-{shard}", persons=A_SHARD)
            asking[loop.create_task(one.ask(asked(crops, task.shard_id)))] = task
            shard += 1
        done, _ = await asyncio.wait(asking, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        asking = {asked_now: of for asked_now, of in asking.items() if asked_now not in done}
    for left in asking:
        left.cancel()


def used(server: GeminiServer, minutes: int) -> float:
    """Return the requests per minute after the first minute."""
    return sum(seen.at >= NOON + 60 for seen in server.counted) / (minutes - 1)


@pytest.mark.parametrize(
    ("a_minute", "tokens", "minutes", "a_request", "most"),
    [
        (10, 250_000, 21, 8, 1),
        (300, 1_000_000, 2, 2, 25),
        pytest.param(1000, 4_000_000, 2, 1, 84, marks=pytest.mark.long),
    ],
)
def test_95_percent_of_the_requests_per_minute_are_sent(a_minute, tokens, minutes, a_request, most):
    async def run() -> GeminiServer:
        quota = {"requests_per_minute": a_minute, "tokens_per_minute": tokens, "requests_per_day": None}
        async with serving((2.0, 5.0), **quota) as server:
            one = annotator(server, ObjectStore(in_memory()), persons_per_request=a_request, **quota)
            limits = QuotaLimits(a_minute, tokens, None)
            await ask_for(minutes, one, persons_ahead("auto", limits, a_request))
            return server

    server = run_simulated(NOON, run)
    assert {seen.status for seen in server.journal} == {200}
    assert most_in_a_minute(seen.at for seen in server.counted) <= a_minute
    assert used(server, minutes) >= 0.95 * a_minute
    # At 5 s, the quota needs at most so many.
    assert server.most_in_flight <= most
    assert {len(seen.images) for seen in server.journal} == {a_request}
    assert set(answered(server.journal).values()) == {1}


def test_95_percent_of_the_tokens_per_minute_are_used():
    a_request, tokens, minutes = 8, 250_000, 3

    async def run() -> GeminiServer:
        quota = {"requests_per_minute": 1000, "tokens_per_minute": tokens, "requests_per_day": None}
        async with serving((2.0, 5.0), **quota) as server:
            one = annotator(server, ObjectStore(in_memory()), persons_per_request=a_request, **quota)
            await ask_for(minutes, one, 400)
            return server

    server = run_simulated(NOON, run)
    assert {seen.status for seen in server.journal} == {200}
    assert used(server, minutes) * server.journal[0].tokens >= 0.95 * tokens
    assert server.most_in_flight <= 5 * 250_000 / 60 / server.journal[0].tokens + 1


def window(limits: QuotaLimits, latency_s: float, tokens: int = 3000) -> int:
    measured = InFlightWindow("auto", limits)
    assert measured.size == 1
    for _ in range(60):
        measured.answered(latency_s, tokens)
    return measured.size


@pytest.mark.parametrize(
    ("a_minute", "tokens", "a_day", "latency_s", "size"),
    [
        (10, 250_000, 250, 5.0, 1),
        (10, 250_000, 250, 6.0, 1),
        (12, 250_000, None, 6.0, 2),
        (1000, None, None, 5.0, 84),
        (1000, 250_000, None, 5.0, 7),
        (1000, None, 250, 5.0, 5),
        (1000, None, 20, 5.0, 1),
        (100_000, None, None, 60.0, MOST_IN_FLIGHT),
        (1000, None, None, 0.0, 1),
    ],
)
def test_the_window_is_the_rate_times_the_latency(a_minute, tokens, a_day, latency_s, size):
    assert window(QuotaLimits(a_minute, tokens, a_day), latency_s) == size


def test_a_number_stays_what_it_is():
    fixed = InFlightWindow(6, QuotaLimits(10, None, 250))
    fixed.answered(100.0, 1)
    assert fixed.size == 6
    assert GeminiSettings(max_in_flight=6).max_in_flight == 6
    assert GeminiSettings().max_in_flight == "auto"


def in_progress(persons_of_a_shard: int, persons: int) -> int:
    """Return how many shards with so many persons each are in progress."""
    running: list[DrainTask] = []
    while admits_another(running, persons):
        running.append(DrainTask(f"shard-{len(running)}", persons=persons_of_a_shard))
    return len(running)


def test_persons_are_queued_and_not_shards():
    ahead = persons_ahead("auto", QuotaLimits(1000, None, None), 8)
    assert 2 * 84 * 8 <= ahead <= 4096, "persons of 84 requests in flight, and as many again"
    assert in_progress(20, ahead) == -(-ahead // 20)
    assert in_progress(1, ahead) == MOST_SHARDS
    assert in_progress(10_000, ahead) == 8
    assert persons_ahead("auto", QuotaLimits(10, 250_000, 250), 8) == 32
    assert persons_ahead(6, QuotaLimits(10, None, 250), 4) == 48


def test_a_request_has_persons_of_many_shards(tmp_path):
    gemini_job.write_backlog(tmp_path, shards=50, persons=1)
    with gemini_server() as server:
        without_ray.gemini(tmp_path, server.base_url, requests_per_minute=1000, persons_per_request=20)
    assert gemini_job.outcomes(tmp_path) == {"ok": 50}
    assert max(len(seen.images) for seen in server.journal) == 20
    assert set(answered(server.journal).values()) == {1}
