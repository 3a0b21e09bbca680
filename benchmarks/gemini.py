"""Measure which share of its quota online mode uses, and what it would use with one request in flight.

A local server speaks HTTP to Google's SDK, answers after 2 to 5 s, and refuses what is above the quota. Real
time passes. The requests of the first minute, while the window fills, are not counted. The share is that of
the requests or of the tokens, whichever the quota allows fewer of.

    python -m benchmarks.gemini [--minutes 3] [--quotas 10/250000,300/1000000,1000/4000000] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from actors.gemini.backlog.admission import admits_another
from actors.gemini.in_flight import persons_ahead
from actors.gemini.online import OnlineAnnotator
from actors.gemini.protocol import DrainTask
from actors.gemini.settings import resolve_gemini
from actors.storage.object_store import ObjectStore
from benchmarks.figures import Figures
from tests.servers.gemini_server import KEY, gemini_server
from tests.support.gemini_asking import SCHEMA, jpeg, settings_for
from tests.support.online_asking import asked

ANSWER_S = (2.0, 5.0)
A_SHARD = 20
"""Number of persons of a shard."""
_WANTED_SHARE = 0.95
"""Share of a quota that should be used. A single request in flight can't, if it takes seconds."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a server has seen.

    Attributes:
        share: Share of the quota that was used after the first minute (0..1).
        in_flight: The most requests in flight.
        refused: Number of refused requests, in all minutes.
    """

    share: float
    in_flight: int
    refused: int


async def ask_for(minutes: float, one: OnlineAnnotator, persons: int) -> None:
    """Ask about as many persons as get their turn within some minutes."""
    ends_at, shard = time.monotonic() + 60 * minutes, 0
    running: dict[asyncio.Task[object], DrainTask] = {}
    await one.begin("benchmark")
    while (left_s := ends_at - time.monotonic()) > 0:
        while admits_another(running.values(), persons):
            crops = [jpeg(shard * A_SHARD + n) for n in range(A_SHARD)]
            task = DrainTask(f"shard-{shard}", persons=A_SHARD)
            running[asyncio.create_task(one.ask(asked(crops, task.shard_id)))] = task
            shard += 1
        done, _ = await asyncio.wait(running, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        running = {asking: task for asking, task in running.items() if asking not in done}
    for asking in running:
        asking.cancel()


def measure(requests: int, tokens: int, minutes: float, in_flight: Literal["auto"] | int) -> Use:
    """Return the use of a quota per minute."""
    quota: dict[str, Any] = {
        "requests_per_minute": requests,
        "tokens_per_minute": tokens,
        "requests_per_day": None,
    }
    with tempfile.TemporaryDirectory() as folder, gemini_server(answer_s=ANSWER_S, **quota) as server:
        settings = settings_for(server.base_url, max_in_flight=in_flight, **quota)
        ahead = persons_ahead("auto", settings.quota_limits, settings.persons_per_request)

        async def run() -> None:
            resolved = resolve_gemini(settings, SCHEMA)
            one = OnlineAnnotator(settings, resolved, SCHEMA, ObjectStore(folder))
            await ask_for(minutes, one, ahead)

        asyncio.run(run())
        begun = server.counted[0].at + 60
        counted = [seen for seen in server.counted if seen.at >= begun]
        possible = min(requests, tokens / fmean(seen.tokens for seen in server.counted))
        share = len(counted) / (minutes - 1) / possible
        refused = sum(seen.status == 429 for seen in server.journal)
        return Use(share, server.most_in_flight, refused)


def main() -> None:
    """Measure some quotas and print a table."""
    parser = argparse.ArgumentParser(description="Measure which share of its quota online mode uses")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--quotas", default="10/250000,300/1000000,1000/4000000")
    parser.add_argument("--quick", action="store_true", help="one quota for little more than a minute")
    given = parser.parse_args()
    if given.quick:
        given.minutes, given.quotas = 1.1, "300/1000000"
    os.environ["GEMINI_API_KEY"] = KEY
    figures = Figures("gemini", given.quick)
    for quota in given.quotas.split(","):
        requests, tokens = map(int, quota.split("/"))
        for in_flight in ("auto", 1):
            use = measure(requests, tokens, given.minutes, in_flight)
            figures.add(
                f"share of {requests:,} requests, {tokens:,} tokens a minute, in flight: {in_flight}",
                use.share,
                at_least=_WANTED_SHARE if in_flight == "auto" else None,
                note=f"at most {use.in_flight} in flight, {use.refused} refused",
            )


if __name__ == "__main__":
    main()
