"""What was answered counts as spent, committed or not, and `status` obeys the settings given to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.gemini.answer_journal import file_journal
from actors.gemini.api.model_families import price_of
from actors.gemini.backlog.claims import Claims
from actors.gemini.gemini_run import GeminiRun
from actors.storage.object_store import ObjectStore
from jobs.run.gemini_display import GeminiDisplay
from tests.servers.gemini_server import MODEL, GeminiServer, gemini_server
from tests.support import gemini_draining, gemini_job, job
from tests.support.in_process import run_in_process

PERSONS = 20


@pytest.fixture
def server(monkeypatch):
    with gemini_server() as found:
        monkeypatch.setenv("GEMINI_API_KEY", found.key)
        answer, found.usage = found.reply_to, []

        def reply_to(*arguments: Any) -> Any:
            reply = answer(*arguments)
            found.usage.append(reply.body["usageMetadata"])
            return reply

        monkeypatch.setattr(found, "reply_to", reply_to)
        yield found


@pytest.fixture
def output(tmp_path) -> Path:
    gemini_job.write_backlog(tmp_path, 1, PERSONS)
    return tmp_path


def spent(server: GeminiServer) -> float:
    """Return the price of the answers that the server gave."""
    price = price_of(MODEL)
    tokens_in = sum(usage["promptTokenCount"] for usage in server.usage)
    tokens_out = sum(usage["candidatesTokenCount"] for usage in server.usage)
    return (tokens_in * price.input_usd + tokens_out * price.output_usd) / 1e6


def status(monkeypatch, capsys, output: Path, *options: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run_in_process(monkeypatch, "status", "--output", output, "--json", *options) == 0
    return json.loads(capsys.readouterr().out)


def test_answers_before_the_stage_stopped_are_committed_and_counted(output, server, monkeypatch, capsys):
    (drained,) = gemini_draining.drain(output, server, requests_per_day=2, persons_per_request=4)
    assert drained.stop is not None
    assert (drained.answered, drained.waiting) == (8, PERSONS - 8)
    found = status(monkeypatch, capsys, output)
    assert gemini_job.outcomes(output) == {"ok": 8, "pending": PERSONS - 8}
    assert found["cost_usd"]["gemini"] == pytest.approx(spent(server), abs=1e-6)
    assert found["not_committed"]["gemini"] == 0
    assert found["quota"]["persons_waiting"] == PERSONS - 8


def test_answers_to_a_new_question_replace_old_ones_only_when_all_are_there(output, server):
    gemini_draining.drain(output, server)
    (drained,) = gemini_draining.drain(
        output, server, reasoning=True, requests_per_day=5, persons_per_request=8
    )
    assert drained.stop is not None
    assert drained.summary is None
    assert gemini_job.outcomes(output) == {"ok": PERSONS}


def test_answers_of_a_killed_run_are_counted_before_anything_is_committed(
    output, server, monkeypatch, capsys
):
    with pytest.raises(gemini_draining.KilledError):
        gemini_draining.drain(output, server, is_killed=True, requests_per_day=2, persons_per_request=4)
    assert job.records(output)["shard-000"]["annotators"] == {}
    store = ObjectStore(str(output))
    claims = Claims(store, "a killed run")
    assert claims.take("shard-000") == "ours"
    for _ in range(2):
        found = status(monkeypatch, capsys, output)
        assert found["not_committed"]["gemini"] == 8
        assert found["cost_usd"]["gemini"] == pytest.approx(spent(server), abs=1e-6) != 0
        assert found["quota"]["persons_waiting"] == PERSONS - 8
        assert run_in_process(monkeypatch, "status", "--output", output) == 0
        said = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "8 more answers paid for, which the next run commits" in said
        file_journal(store)  # as a run does while it goes on
    claims.close()
    gemini_draining.drain(output, server)
    found = status(monkeypatch, capsys, output)
    assert found["not_committed"]["gemini"] == 0
    assert found["cost_usd"]["gemini"] == pytest.approx(spent(server), abs=1e-6)
    assert gemini_job.outcomes(output) == {"ok": PERSONS}


def test_the_quota_is_shown_under_the_limits_that_are_given(output, server, monkeypatch, capsys):
    gemini_draining.drain(output, server, requests_per_day=2, persons_per_request=4)
    assert status(monkeypatch, capsys, output)["quota"]["left_today"] == 2 - len(server.journal) == 0
    more = status(monkeypatch, capsys, output, "--set", "gemini.requests_per_day=20")["quota"]
    assert (more["spent_today"], more["left_today"]) == (2, 18)


def test_a_line_is_printed_when_it_has_changed():
    said: list[str] = []
    display = GeminiDisplay(said.append, every_s=0)
    for _ in range(6):
        display(GeminiRun(), 3)
    display(GeminiRun(answered=8), 3)
    display(GeminiRun(answered=8), 2)
    assert said == [
        "gemini: 0 persons answered, 3 shards left in the backlog",
        "gemini: 8 persons answered, 3 shards left in the backlog",
        "gemini: 8 persons answered, 2 shards left in the backlog",
    ]
