"""Run `shopframe gemini` as a user would, against a local server, and read the output that it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actors.storage.object_store import ObjectStore
from tests.servers.gemini_server import KEY, GeminiServer, Seen
from tests.support import job
from tests.support.committed import Found, write_output
from tests.support.gemini_asking import jpeg

ANSWERS = "annotations/gemini"


def write_backlog(output: Path, shards: int, persons: int, first: int = 0) -> None:
    """Write an output whose persons aren't annotated; each person has a different crop."""
    content = {}
    for shard in range(shards):
        numbers = range(first + shard * persons, first + (shard + 1) * persons)
        content[f"shard-{shard:03d}"] = {
            f"frame-{n:05d}": [Found((0.1, 0.1, 0.2, 0.3), crop=jpeg(n, 16, 32))] for n in numbers
        }
    write_output(ObjectStore(str(output)), content)


def options(base_url: str, **settings: Any) -> list[str]:
    """Return the options that enable Gemini at the given server, with `settings` of the gemini section."""
    given = {"enabled": True, "base_url": base_url, "tokens_per_minute": None, **settings}
    # JSON works because --set reads values as YAML.
    return [part for k, v in given.items() for part in ("--set", f"gemini.{k}={json.dumps(v)}")]


def start(
    output: Path,
    base_url: str,
    *more: str,
    key: str = KEY,
    clock: str | None = None,
    own_ray: bool = False,
    **settings: Any,
) -> job.Process:
    """Start `shopframe gemini`.

    Args:
        output: Output with the backlog.
        base_url: URL of the server.
        more: Further options.
        key: API key.
        clock: None to use this machine's clock. Otherwise the server's clock is used, which moves only while
            the job waits ("standing") or runs at its own speed ("running"). "standing+300" is ahead by 300 s.
        own_ray: As for `job.start`. It is implied by a key other than the default one, because only workers
            of a new Ray get that key.
        settings: Settings of the gemini section.
    """
    arguments = ["gemini", "--output", str(output), *options(base_url, **settings), *more]
    environment = {"GEMINI_API_KEY": key}
    own_ray = own_ray or key != KEY
    if clock is None:
        return job.start(*arguments, environment=environment, own_ray=own_ray)
    return job.start_program(
        "tests.support.clocked_gemini", base_url, clock, *arguments, environment=environment, own_ray=own_ray
    )


def gemini(
    output: Path, base_url: str, *more: str, expect: int = 0, **given: Any
) -> subprocess.CompletedProcess[str]:
    """Run `shopframe gemini`, which must end with the expected exit code; `given` is passed to `start`."""
    done = job.finish(start(output, base_url, *more, **given))
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def kill_everything(driver: job.Process) -> None:
    """Send SIGKILL to the driver and to all processes of its Ray at once."""
    for pid in job.descendants(driver.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.finish(driver)


def outcomes(output: Path) -> Counter[str]:
    """Return the number of persons by outcome, after checking that every kept person has exactly one."""
    answers = job.table(output, ANSWERS)
    persons = job.table(output, "persons")
    kept = persons.filter(persons["kept"])
    assert answers.select(job.ROW_KEYS).to_pylist() == kept.select(job.ROW_KEYS).to_pylist()
    found = Counter(answers["status"].to_pylist())
    recorded = sum((Counter(r["annotators"]["gemini"]) for r in job.records(output).values()), Counter())
    assert recorded == found
    return found


def answered(seen: Iterable[Seen]) -> Counter[str]:
    """Return how often each image was in an answered request, by the digest of the image."""
    return Counter(image for one in seen if one.status == 200 for image in one.images)


def most_in_a_minute(times: Iterable[float]) -> int:
    """Return the largest number of requests in any 60 s, where each time is that of one, in seconds."""
    times = sorted(times)
    return max(sum(start <= at < start + 60 for at in times) for start in times)


def refused(server: GeminiServer) -> list[Seen]:
    """Return the requests that were answered with status 429."""
    return [seen for seen in server.journal if seen.status == 429]


def egress(output: Path) -> Counter[str]:
    """Return how often each crop was recorded as sent, by the digest of the crop."""
    files = (output / "gemini" / "egress").rglob("*.jsonl")
    lines = [json.loads(line) for f in files for line in f.read_text().splitlines()]
    # A record that was being merged when a run was killed is in two objects.
    records = {line["record"]: line["crops"] for line in lines}
    return Counter(crop["crop_sha256"] for crops in records.values() for crop in crops)
