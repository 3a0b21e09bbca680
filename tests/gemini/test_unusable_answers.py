"""A few answers in a row that are unusable for one reason stop the stage, which says why and shows one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors.gemini.batch import BatchAnnotator
from actors.gemini.protocol import DrainTask
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import gemini_server
from tests.support import gemini_draining, gemini_job, without_ray
from tests.support.quota_simulation import SimulatedClock

PERSONS = 40
A_FEW = 5


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GEMINI_API_KEY", "a-key")
    gemini_job.write_backlog(tmp_path, 1, PERSONS)
    return tmp_path


@pytest.mark.parametrize(
    ("fault", "reason", "answer"),
    [
        ("prose", "the answer is not JSON", "I can't tell."),
        ("max_tokens", "the answer was cut: MAX_TOKENS", '{"persons": [{"image_id": "'),
        ("wrong_ids", "the answers don't echo the ids", '"image_id": "zzzz"'),
        ("foreign_value", "gender: Input should be", "not in the schema"),
        ("empty_candidates", "the response has no candidates", "(empty)"),
    ],
)
def test_the_stage_stops_after_a_few_and_shows_one(output, fault, reason, answer):
    # These two spoil the first person of an answer only.
    persons_per_request = 1 if fault in ("foreign_value", "wrong_ids") else 8
    with gemini_server(faults=[Fault(fault, None)], keys=("a-key",)) as server:
        (drained,) = gemini_draining.drain(output, server, persons_per_request=persons_per_request)
        assert len(server.journal) == A_FEW
        assert drained.stop is not None
        assert drained.stop.kind == "invalid"
        assert reason in drained.stop.reason
        assert answer in drained.stop.reason
        assert "check gemini.model" in drained.stop.reason
        assert "shard-" not in drained.stop.reason
        server.script.faults.clear()
        gemini_draining.drain(output, server)
    found = gemini_job.outcomes(output)
    assert sum(found.values()) == PERSONS
    assert set(found) <= {"ok", "invalid"}
    assert found["ok"] >= PERSONS - A_FEW


def test_a_usable_answer_in_between_or_another_reason_goes_on(output):
    faults = [Fault(kind) for kind in ["prose"] * 4 + ["max_tokens"] * 4 + ["prose"] * 4]
    with gemini_server(faults=faults, keys=("a-key",)) as server:
        (drained,) = gemini_draining.drain(output, server, persons_per_request=1)
    assert drained.stop is None
    assert gemini_job.outcomes(output) == {"invalid": 8, "truncated": 4, "ok": PERSONS - 12}


def test_blocked_answers_are_for_the_crops_to_cause_and_go_on(output):
    with gemini_server(faults=[Fault("safety", None)], keys=("a-key",)) as server:
        (drained,) = gemini_draining.drain(output, server, persons_per_request=1)
    assert drained.stop is None
    assert gemini_job.outcomes(output) == {"blocked": PERSONS}


def test_a_batch_job_of_unusable_answers_is_not_asked_again_in_halves(output):
    with gemini_server(faults=[Fault("prose", None, where="batch")], keys=("a-key",)) as server:
        drainer, settings = gemini_draining.drainer_of(output, server, mode="batch", persons_per_request=4)

        async def collect():
            annotator = BatchAnnotator(settings, drainer, "holder", SimulatedClock())
            try:
                return await annotator.collect([DrainTask("shard-000")])
            finally:
                await annotator.finish()

        stop = asyncio.run(collect())
        assert len(server.batches.jobs) == 1
    assert stop is not None
    assert stop.kind == "invalid"
    assert "I can't tell." in stop.reason


@pytest.mark.timeout(600)
def test_the_user_is_told_and_the_day_is_not_burnt(tmp_path):
    gemini_job.write_backlog(tmp_path, 3, 8)
    with gemini_server(faults=[Fault("prose", None)]) as server:
        done = without_ray.gemini(tmp_path, server.base_url, expect=1, requests_per_minute=1000)
        assert len(server.journal) == A_FEW
    said = " ".join(done.stdout.replace("│", " ").split())
    assert "the last 5 answers were all unusable for one reason" in said
    assert "the answer is not JSON" in said
    assert "one of them was: I can't tell." in said
    assert "5 requests spent today, 245 left today" in said
    assert "24 persons wait for Gemini: run shopframe gemini" in said
