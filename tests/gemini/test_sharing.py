"""Two jobs on one output keep the quota together and lose no person; llmock's quota is kept as well."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime

import pytest

from tests.servers.gemini_clock import ServerClock
from tests.servers.gemini_server import gemini_server
from tests.servers.llmock_process import llmock_process
from tests.support import gemini_job, job, without_ray

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SHARDS, A_SHARD, A_REQUEST = 12, 10, 4
A_MINUTE, A_DAY = 12, 20
NOON = datetime.fromisoformat("2026-06-10T12:00:00-07:00").timestamp()


def test_two_jobs_share_the_quota_and_lose_nobody(tmp_path):
    output = tmp_path / "out"
    gemini_job.write_backlog(output, SHARDS, A_SHARD)
    settings = {"requests_per_minute": A_MINUTE, "persons_per_request": A_REQUEST}
    clock = ServerClock(NOON, speed=2)
    with gemini_server(requests_per_minute=A_MINUTE, requests_per_day=A_DAY, clock=clock) as server:
        both = [
            gemini_job.start(
                output,
                server.base_url,
                clock="running",
                own_ray=True,
                requests_per_day=A_DAY,
                **settings,
            )
            for _ in range(2)
        ]
        ended = [job.finish(process) for process in both]
    assert [seen for seen in server.journal if seen.status != 200] == []
    assert gemini_job.most_in_a_minute(seen.at for seen in server.counted) <= A_MINUTE
    assert len(server.counted) == A_DAY
    assert [done.returncode for done in ended] == [0, 0], ended
    said = [" ".join(done.stdout.split()) for done in ended]
    assert any("the day's quota is spent" in text for text in said)
    for text in said:
        assert "the day's quota is spent" in text or "shards left to another run" in text
    # The next run uses the answers that were paid for but not committed.
    answered = gemini_job.answered(server.journal)
    assert set(answered.values()) == {1}
    with gemini_server() as server:
        without_ray.gemini(output, server.base_url, requests_per_minute=1000, requests_per_day=1000)
    assert gemini_job.outcomes(output) == {"ok": SHARDS * A_SHARD}
    assert set((answered + gemini_job.answered(server.journal)).values()) == {1}
    assert not list((output / "gemini/claims").iterdir())
    assert not list((output / "gemini/holders").iterdir())


@pytest.mark.long
def test_two_jobs_with_quota_enough_do_everything_between_them(tmp_path):
    output = tmp_path / "out"
    gemini_job.write_backlog(output, SHARDS, A_SHARD)
    with gemini_server() as server:
        both = [
            gemini_job.start(
                output, server.base_url, own_ray=True, requests_per_minute=1000, persons_per_request=1
            )
            for _ in range(2)
        ]
        ended = [job.finish(process) for process in both]
    assert [done.returncode for done in ended] == [0, 0], ended
    assert gemini_job.outcomes(output) == {"ok": SHARDS * A_SHARD}
    assert set(gemini_job.answered(server.journal).values()) == {1}
    assert {record["attempt"] for record in job.records(output).values()} == {2}, (
        "each shard must be committed exactly once more"
    )


@pytest.mark.long
def test_a_job_goes_on_when_the_one_is_killed_that_started_the_actor_they_share(tmp_path):
    output = tmp_path / "out"
    gemini_job.write_backlog(output, 40, A_SHARD)
    settings = {
        "requests_per_minute": 10_000,
        "requests_per_day": None,
        "persons_per_request": 1,
        "max_in_flight": 2,
    }
    with gemini_server() as server:
        first = gemini_job.start(output, server.base_url, **settings)
        assert job.wait_for(lambda: server.journal, first)
        second = gemini_job.start(output, server.base_url, **settings)
        assert job.wait_for(lambda: len(list((output / "gemini/holders").iterdir())) == 2, second)
        os.kill(first.pid, signal.SIGKILL)
        job.finish(first)
        assert first.returncode == -9, "the first job ended before it could be killed"
        done = job.finish(second)
    assert done.returncode == 0, done.stdout + done.stderr
    assert gemini_job.outcomes(output) == {"ok": 40 * A_SHARD}
    answered = gemini_job.answered(server.journal)
    assert sum(answered.values()) - len(answered) <= 2


def test_llmock_refuses_nothing_when_its_limit_is_the_configured_one(tmp_path):
    """llmock allows 10 requests at first and one more every 6 s; Shopframe's windows last 62 s.

    Two of the 10 are about models, which llmock counts like questions, and Google doesn't: the check of the
    key, and the list of models, which is requested within an hour of midnight Pacific time only.
    """
    output = tmp_path / "out"
    gemini_job.write_backlog(output, 2, 8)
    with llmock_process("--rpm", "10") as server:
        # Its own answers would all be invalid for one reason, which would stop the stage.
        server.script(*({"type": "reply", "text": text} for text in ("I can't tell.", "{}") * 8))
        without_ray.gemini(
            output,
            server.base_url,
            model="gemini-2.5-pro",
            requests_per_minute=8,
            requests_per_day=None,
            persons_per_request=1,
        )
        seen = [
            entry for entry in server.get("requests")["requests"] if "generateContent" in json.dumps(entry)
        ]
    assert [entry["status"] for entry in seen] == [200] * 16
    assert gemini_job.most_in_a_minute([entry["started_at"] for entry in seen]) == 8
    assert gemini_job.outcomes(output) == {"invalid": 16}
