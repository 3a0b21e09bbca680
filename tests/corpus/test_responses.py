"""Bad answers of models, through whole commands: each costs only its own crop, and the counts add up."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from actors.fingerprint import crop_sha256
from actors.gemini.api.error_responses import Refusal, Scrubber, meaning_of
from actors.records import LONGEST_REASON
from actors.smolvlm.server_engine import ServerEngine
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from tests.corpus.answers import SCHEMA
from tests.corpus.responses import (
    BATCH_LINES,
    CHAT_COMPLETIONS,
    CHAT_TEXTS,
    GEMINI_ERRORS,
    GEMINI_RESPONSES,
    GEMINI_TEXTS,
    BadResponse,
)
from tests.servers.chat_server import MODEL, chat_server
from tests.servers.gemini_server import gemini_server
from tests.support import gemini_job as g
from tests.support import job, without_ray
from tests.support.gemini_asking import jpeg
from tests.support.job import Models
from tests.support.online_asking import StandingClock

pytestmark = pytest.mark.timeout(600)

ALL = (*GEMINI_TEXTS, *GEMINI_RESPONSES)
SOME = (*GEMINI_TEXTS[::6], *GEMINI_RESPONSES[::3])


def crop_of(number: int) -> str:
    """Return the digest of a crop of the backlog."""
    return crop_sha256(jpeg(number, 16, 32))


def outcomes_of(output):
    persons = {
        (r["shard_id"], r["frame_key"]): r["crop_sha256"] for r in job.table(output, "persons").to_pylist()
    }
    rows = job.table(output, g.ANSWERS).to_pylist()
    return {persons[row["shard_id"], row["frame_key"]]: row for row in rows}


def check(output, kinds: tuple[BadResponse, ...]) -> None:
    found = outcomes_of(output)
    for number, kind in enumerate(kinds):
        row = found[crop_of(2 * number)]
        assert (row["status"], kind.says in (row["reason"] or "")) == (kind.status, True), (kind.name, row)
        assert len(row["reason"] or "") < 1000, kind.name
        assert found[crop_of(2 * number + 1)]["status"] == "ok"
    assert g.outcomes(output).total() == 2 * len(kinds)
    without_ray.command("consolidate", "--output", output)
    without_ray.command("verify", "--output", output)


def backlog(output, kinds: tuple[BadResponse, ...]) -> dict[str, bytes]:
    """Write crops of which every second one is answered badly, and return these answers."""
    g.write_backlog(output, shards=2, persons=len(kinds))
    return {crop_of(2 * number): kind.body for number, kind in enumerate(kinds)}


@pytest.mark.parametrize("kinds", [ALL, GEMINI_ERRORS], ids=["responses", "errors"])
def test_a_bad_response_or_an_error_about_one_crop_costs_only_its_crop(tmp_path, kinds):
    with gemini_server() as server:
        server.bodies = backlog(tmp_path, kinds)
        clock = StandingClock(server.clock)
        without_ray.gemini(
            tmp_path, server.base_url, persons_per_request=1, requests_per_minute=10_000, clock=clock
        )
    check(tmp_path, kinds)


def test_a_bad_response_costs_only_its_crop_among_others_in_its_request(tmp_path):
    kinds, among = SOME, 8
    g.write_backlog(tmp_path, shards=1, persons=among * len(kinds))
    with gemini_server() as server:
        server.bodies = {crop_of(among * number): kind.body for number, kind in enumerate(kinds)}
        clock = StandingClock(server.clock)
        without_ray.gemini(
            tmp_path, server.base_url, persons_per_request=4, requests_per_minute=10_000, clock=clock
        )
    found = {crop: row["status"] for crop, row in outcomes_of(tmp_path).items()}
    expected = {crop_of(number): "ok" for number in range(among * len(kinds))}
    assert found == expected | {crop_of(among * number): kind.status for number, kind in enumerate(kinds)}
    assert g.outcomes(tmp_path).total() == len(expected)


def test_a_bad_line_of_a_batch_job_costs_only_its_crop(tmp_path):
    kinds = (*GEMINI_RESPONSES, *BATCH_LINES)
    with gemini_server() as server:
        bad = backlog(tmp_path, kinds)
        lines = {kind.body for kind in BATCH_LINES}
        server.bodies = {crop: body for crop, body in bad.items() if body not in lines}
        server.lines = {crop: body for crop, body in bad.items() if body in lines}
        clock = StandingClock(server.clock)
        without_ray.gemini(tmp_path, server.base_url, persons_per_request=1, mode="batch", clock=clock)
    check(tmp_path, kinds)


@pytest.mark.parametrize("code", [200, 400, 429, 503, 10**30])
@pytest.mark.parametrize(
    "error",
    [
        {"message": "m" * 10**6, "status": "s" * 10**6},
        {"message": "\ud800", "status": "\ud800"},
        {"message": ["m"], "status": {"a": 1}},
        {"details": [{"@type": "a.ErrorInfo", "reason": ["x"]}]},
        {"details": [{"@type": "a.QuotaFailure", "violations": [{"quotaId": ["\ud800"], "quotaValue": {}}]}]},
        {"details": [{"@type": "a.QuotaFailure", "violations": [{"quotaId": "q" * 10**6}]}]},
        {"details": [{"@type": "a.BadRequest", "fieldViolations": [{"field": "f" * 10**6}]}]},
        {"details": [{"@type": "a.RetryInfo", "retryDelay": "9" * 400 + "s"}]},
    ],
)
def test_an_error_of_the_server_is_short_and_can_be_written(error, code):
    headers = {"Retry-After": "9" * 400}
    found = meaning_of(code, {"error": error}, headers, "a model", Scrubber("key"))
    said = found.reason if isinstance(found, Refusal) else str(found)
    assert len(said.encode()) < 1500
    assert getattr(found, "retry_after_s", None) is None


def server_settings(base_url: str) -> SmolVLMSettings:
    server = {"base_url": base_url, "retries": 0, "outage_s": 30}
    return SmolVLMSettings.model_validate({"engine": "server", "model": MODEL, "server": server})


def test_a_bad_chat_completion_costs_only_its_crop(monkeypatch):
    monkeypatch.delenv("SMOLVLM_API_KEY", raising=False)
    kinds = (*CHAT_TEXTS, *CHAT_COMPLETIONS)
    crops = [jpeg(number) for number in range(2 * len(kinds))]
    with chat_server() as server:
        for number, kind in enumerate(kinds):
            server.bodies[crop_sha256(crops[2 * number])] = kind.body
        settings = server_settings(server.base_url)
        found = ServerEngine(settings, resolve_smolvlm(settings, SCHEMA), SCHEMA).annotate(crops)
    for number, kind in enumerate(kinds):
        bad, good = found[2 * number : 2 * number + 2]
        assert (bad.status, kind.says in (bad.reason or "")) == (kind.status, True), (kind.name, bad)
        assert len(bad.reason or "") <= LONGEST_REASON
        assert good.status == "ok"
        # The tables can hold it.
        json.dumps(asdict(bad), ensure_ascii=False, allow_nan=False).encode()
        assert all(0 <= share <= 1 for share in bad.confidence.values())


SOME_COMPLETIONS = CHAT_COMPLETIONS[::3]


@pytest.mark.slow
def test_both_models_answer_badly_in_one_run(models: Models, tmp_path, monkeypatch):
    """The first run detects, so that it is known whom the second one asks about."""
    monkeypatch.delenv("SMOLVLM_API_KEY", raising=False)
    source, output = tmp_path / "in", tmp_path / "out"
    kinds = max(len(SOME), len(SOME_COMPLETIONS))
    job.write_shards(source, "ab", frames=kinds)
    options = [
        *models.options(smolvlm=False),
        "--set",
        "output.keep_crops=always",
        "--set",
        "detector.image_size=64",
    ]
    without_ray.annotate(source, output, *options)
    crops = sorted({row["crop_sha256"] for row in job.table(output, "persons").to_pylist() if row["kept"]})
    assert len(crops) >= 2 * kinds
    with gemini_server() as gemini, chat_server() as chat:
        gemini.bodies = {crop: kind.body for crop, kind in zip(crops[::2], SOME, strict=False)}
        chat.bodies = {crop: kind.body for crop, kind in zip(crops[1::2], SOME_COMPLETIONS, strict=False)}
        asking = g.options(gemini.base_url, persons_per_request=1, requests_per_minute=10_000)
        local = {"enabled": "true", "engine": "server", "model": MODEL, "server.base_url": chat.base_url}
        local |= {"server.retries": 0}
        smolvlm = [part for key, value in local.items() for part in ("--set", f"smolvlm.{key}={value}")]
        clock = StandingClock(gemini.clock)
        without_ray.annotate(source, output, *options, *asking, *smolvlm, clock=clock)
    persons = {
        tuple(r[k] for k in job.ROW_KEYS): r["crop_sha256"] for r in job.table(output, "persons").to_pylist()
    }
    for annotator, bad in (("gemini", (crops[::2], SOME)), ("smolvlm", (crops[1::2], SOME_COMPLETIONS))):
        expected = {crop: kind.status for crop, kind in zip(*bad, strict=False)}
        rows = job.table(output, f"annotations/{annotator}").to_pylist()
        found = {persons[tuple(row[k] for k in job.ROW_KEYS)]: row["status"] for row in rows}
        assert found == {crop: expected.get(crop, "ok") for crop in crops}
    assert job.progress(output)["postponed"] == []
    without_ray.command("verify", "--output", output)
