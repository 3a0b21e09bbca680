"""`shopframe gemini` as its users start it, against a local server, and what it left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actors.storage.object_store import ObjectStore
from tests.conftest import REPO_ROOT
from tests.servers.gemini_server import KEY, GeminiServer, Seen
from tests.support import job
from tests.support.committed import Found, write_output
from tests.support.gemini_asking import jpeg

ANSWERS = "annotations/gemini"

# Defined in the script, so that it reaches the actor by value.
_CLOCKED = """
import asyncio
import json
import sys
import urllib.request

from jobs.run import gemini_drain as gemini
from jobs.cli import main

URL, MODE = sys.argv[1:3]


def state(change=None):
    body = None if change is None else json.dumps(change).encode()
    with urllib.request.urlopen(f"{URL}/_server/clock", body, timeout=30) as answer:
        return json.load(answer)


class Standing:
    '''A wait sets the server's clock forward.'''

    def now(self):
        return state()["now"]

    async def sleep(self, seconds):
        await asyncio.to_thread(state, {"advance": seconds})


class Running:
    '''Goes as fast as the server's.'''

    def now(self):
        return state()["now"]

    async def sleep(self, seconds):
        await asyncio.sleep(seconds / state()["speed"])


drain, clock = gemini.drain, {"standing": Standing, "running": Running}[MODE]()
gemini.drain = lambda settings: drain(settings, clock)
main(sys.argv[3:])
"""


def write_backlog(output: Path, shards: int, persons: int, first: int = 0) -> None:
    """Write an output of unannotated persons, each with a crop of its own."""
    content = {}
    for shard in range(shards):
        numbers = range(first + shard * persons, first + (shard + 1) * persons)
        content[f"shard-{shard:03d}"] = {
            f"frame-{n:05d}": [Found((0.1, 0.1, 0.2, 0.3), crop=jpeg(n, 16, 32))] for n in numbers
        }
    write_output(ObjectStore(str(output)), content)


def options(base_url: str, **settings: Any) -> list[str]:
    """Gemini enabled, at this server; `settings` are those of the section."""
    given = {"enabled": True, "base_url": base_url, "tokens_per_minute": None, **settings}
    # JSON is YAML, in which --set reads values.
    return [part for k, v in given.items() for part in ("--set", f"gemini.{k}={json.dumps(v)}")]


def start(
    output: Path,
    base_url: str,
    *more: str,
    key: str = KEY,
    clock: str | None = None,
    own_ray: bool = False,
    **settings: Any,
) -> subprocess.Popen[str]:
    """Start `shopframe gemini`.

    Args:
        output: Where the backlog is.
        base_url: Of the server.
        more: Further options.
        key: The API key.
        clock: None for this machine's; else that of the server, which is "standing" until somebody waits or
            "running" at its own speed.
        own_ray: As for `job.start`; another key needs a Ray of its own, whose workers have it.
        settings: Of the gemini section.
    """
    arguments = ["gemini", "--output", str(output), *options(base_url, **settings), *more]
    environment = {"GEMINI_API_KEY": key, "PYTHONPATH": str(REPO_ROOT)}
    program = ["-m", "jobs.cli"] if clock is None else ["-c", _CLOCKED, base_url, clock]
    command = [sys.executable, *program, *arguments]
    return job.start_command(command, environment, own_ray or key != KEY)


def gemini(
    output: Path, base_url: str, *more: str, expect: int = 0, **given: Any
) -> subprocess.CompletedProcess[str]:
    """A whole run, which must end with the expected exit code; `given` as for `start`."""
    done = job.finish(start(output, base_url, *more, **given))
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def kill_everything(driver: subprocess.Popen[str]) -> None:
    """SIGKILL to the driver and to all processes of its Ray at once."""
    for pid in job.descendants(driver.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.finish(driver)


def outcomes(output: Path) -> Counter[str]:
    """Outcome to persons; that every kept person has exactly one is checked."""
    answers = job.table(output, ANSWERS)
    persons = job.table(output, "persons")
    kept = persons.filter(persons["kept"])
    assert answers.select(job.ROW_KEYS).to_pylist() == kept.select(job.ROW_KEYS).to_pylist()
    found = Counter(answers["status"].to_pylist())
    recorded = sum((Counter(r["annotators"]["gemini"]) for r in job.records(output).values()), Counter())
    assert recorded == found
    return found


def answered(seen: Iterable[Seen]) -> Counter[str]:
    """Digest of an image to how often it was in a request that was answered."""
    return Counter(image for one in seen if one.status == 200 for image in one.images)


def most_in_a_minute(seen: Iterable[Seen]) -> int:
    """The most requests in any 60 s."""
    times = sorted(one.at for one in seen)
    return max(sum(start <= at < start + 60 for at in times) for start in times)


def refused(server: GeminiServer) -> list[Seen]:
    """Requests that were answered 429."""
    return [seen for seen in server.journal if seen.status == 429]


def egress(output: Path) -> Counter[str]:
    """Digest of a crop to how often it was recorded as sent."""
    files = (output / "gemini" / "egress").rglob("*.json")
    return Counter(crop["crop_sha256"] for f in files for crop in json.loads(f.read_bytes())["crops"])
