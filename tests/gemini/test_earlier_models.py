"""Answers of an earlier model stay good until somebody asks for others, also those of an earlier version."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from actors.gemini.answer_journal import JournalEntry, file_journal, find_paid, write_journal
from actors.gemini.backlog.listing import read_backlog, waiting_of
from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.question import Question
from actors.gemini.settings import GeminiSettings, ResolvedGemini, resolve_gemini
from actors.records import Annotation
from actors.storage.commit_record import CommitRecord, Counts, InputIdentity
from actors.storage.object_store import ObjectStore
from jobs.run.output_status import output_status
from jobs.run.run_record import read_run
from tests.servers.gemini_server import MODEL, MODEL_2_5, gemini_server
from tests.support import gemini_job, job, without_ray
from tests.support.gemini_asking import SCHEMA

OLD = {
    "model": MODEL_2_5,
    "temperature": 0,
    "thinking_budget": 0,
    "media_resolution": "auto",
    "max_side_px": 384,
    "reasoning": False,
}


def resolved(**changes: object) -> ResolvedGemini:
    return resolve_gemini(GeminiSettings(**changes), SCHEMA)


def fingerprint_of_old(prompt_sha256: str, **changes: object) -> str:
    """Return the fingerprint as version 0.1 computed it, with the model among its content."""
    content = {"answer": 1, "prompt": prompt_sha256, "schema": SCHEMA.sha256, **OLD, **changes}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def record(fingerprint: str, models: dict[str, dict[str, int]], **outcomes: int) -> CommitRecord:
    return CommitRecord(
        shard_id="a",
        state="done",
        attempt=1,
        attempt_id="001-a",
        input=InputIdentity(uri="a.tar", etag="e", size_bytes=1, format="webdataset", start=0, stop=None),
        fingerprints={"gemini": fingerprint},
        counts=Counts(kept=sum(outcomes.values())),
        annotators={"gemini": outcomes},
        models={"gemini": models} if models else {},
    )


def test_answers_of_another_model_wait_only_if_they_are_to_be_asked_for_again():
    question = resolved().question
    found = record(
        question.fingerprint, {MODEL_2_5: {"ok": 5, "invalid": 1}, MODEL: {"ok": 2}}, ok=7, invalid=1
    )
    assert waiting_of(found, question).total() == 0
    assert waiting_of(found, resolved(reask=True).question).total() == 6
    assert waiting_of(found, resolved(reask=True, model=MODEL_2_5).question).total() == 2


def test_an_earlier_versions_answers_are_recognised_by_their_fingerprint_alone():
    now = resolved()
    old = record(fingerprint_of_old(now.prompt_sha256), {}, ok=8)
    assert waiting_of(old, now.question).total() == 0
    assert waiting_of(old, resolved(reask=True).question).total() == 8
    assert waiting_of(old, resolved(reask=True, model=MODEL_2_5).question).total() == 0


@pytest.mark.parametrize("change", [{"model": "gemini-2.5-pro"}, {"temperature": 1}, {"max_side_px": None}])
def test_settings_of_an_earlier_version_are_recognised_only_if_they_are_known(change):
    request = {**OLD, **change}
    old = record(fingerprint_of_old(resolved().prompt_sha256, **change), {}, ok=8)
    assert waiting_of(old, resolved().question).total() == 8
    known = resolve_gemini(GeminiSettings(), SCHEMA, [request])
    assert waiting_of(old, known.question).total() == 0
    assert known.earlier[old.fingerprints["gemini"]] == request["model"]


def test_another_prompt_is_another_question_whatever_the_version(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("Look.\n{schema}")
    other = resolved(prompt=str(path))
    assert (
        waiting_of(record(fingerprint_of_old(resolved().prompt_sha256), {}, ok=8), other.question).total()
        == 8
    )
    assert waiting_of(record(resolved().fingerprint, {MODEL: {"ok": 8}}, ok=8), other.question).total() == 8


def entry(model: str, fingerprint: str, status: str = "ok") -> JournalEntry:
    values = {a.name: None for a in SCHEMA}
    return JournalEntry(
        crop_sha256="c" * 64,
        fingerprint=fingerprint,
        annotation=Annotation(status, None if status == "ok" else "why", values),
        model=model,
        model_version=model,
        prompt_sha256="p",
        request_id="r",
        input_tokens=1.0,
        output_tokens=1.0,
        cost_usd=0.1,
    )


@pytest.mark.parametrize("is_filed", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_paid_answers_are_found_by_question_and_model(tmp_path, is_filed, order):
    store = ObjectStore(str(tmp_path))
    now = resolved()
    entries = [
        entry(MODEL, now.fingerprint),
        entry(MODEL_2_5, now.fingerprint),
        entry("gemini-2.5-pro", now.fingerprint, "invalid"),
        entry("of old", "f" * 64),
    ]
    for number, one in enumerate(entries[::order]):
        write_journal(store, "a", f"request-{number}", [one])
    if is_filed:
        file_journal(store)

    def model_of(question: Question, preferred: str) -> str | None:
        found = find_paid(store, "a", question, preferred, {"c" * 64})
        return found["c" * 64].model if found else None

    question = now.question
    assert model_of(question, MODEL) == MODEL
    assert model_of(question, MODEL_2_5) == MODEL_2_5
    # An ok of any model is better than an invalid answer of the preferred one.
    assert model_of(question, "gemini-2.5-pro") in (MODEL, MODEL_2_5)
    for model in (MODEL, MODEL_2_5, "gemini-2.5-pro"):
        assert model_of(replace(question, only_model=model), model) == model
    assert model_of(replace(question, only_model="gemini-4"), "gemini-4") is None
    assert model_of(Question("0" * 64), MODEL) is None
    assert model_of(Question("0" * 64, {"f" * 64: "of old"}), MODEL) == "of old"


def make_old(output: Path) -> None:
    """Change an output to what version 0.1 wrote with the model of that time."""
    fingerprint = fingerprint_of_old(read_run(ObjectStore(str(output))).models.gemini.prompt_sha256)
    for path in [*(output / "commits").glob("*.json"), output / "run.json"]:
        content = json.loads(path.read_bytes())
        content["fingerprints"]["gemini"] = fingerprint
        if path.name == "run.json":
            section = content["config"]["gemini"]
            del section["reask"], section["thinking_level"]
            section.update(OLD)
            del content["gemini_requests"], content["models"]["gemini"]["earlier"]
        else:
            assert content.pop("models")
        path.write_text(json.dumps(content))
    for folder in ("answers", "gemini"):
        for path in (output / folder).rglob("*.parquet"):
            path.unlink()


@pytest.mark.timeout(900)
def test_a_new_model_asks_nobody_again_until_it_is_told_to(tmp_path):
    output, store = tmp_path / "out", ObjectStore(str(tmp_path / "out"))
    gemini_job.write_backlog(output, 2, 4)
    with gemini_server(models=(MODEL, MODEL_2_5)) as server:
        without_ray.gemini(output, server.base_url, model=MODEL_2_5, requests_per_minute=1000)
        assert output_status(store)["answers"] == {"gemini": {MODEL_2_5: 8}}
        make_old(output)
        begun = len(server.journal)
        said = without_ray.gemini(output, server.base_url, model=MODEL, requests_per_minute=1000).stdout
        assert len(server.journal) == begun
        assert "8 ok answers of gemini-2.5-flash" in " ".join(said.split())
        status = output_status(store)
        assert status["answers"] == {"gemini": {MODEL_2_5: 8}}
        assert status["quota"]["persons_waiting"] == 0
        # The limit ends the first run after half of the persons; the other half keeps its answers.
        limited = {"reask": True, "max_persons": 4, "policy": "random", "requests_per_minute": 1000}
        without_ray.gemini(output, server.base_url, model=MODEL, **limited)
        assert output_status(store)["answers"] == {"gemini": {MODEL_2_5: 4, MODEL: 4}}
        assert gemini_job.outcomes(output) == {"ok": 8}
        again = {"reask": True, "requests_per_minute": 1000}
        without_ray.gemini(output, server.base_url, model=MODEL, **again, max_persons=None)
        assert output_status(store)["answers"] == {"gemini": {MODEL: 8}}
        asked = [seen for seen in server.journal[begun:] if seen.status == 200]
        assert {seen.model for seen in asked} == {MODEL}
        assert sum(len(seen.images) for seen in asked) == 8
        without_ray.gemini(output, server.base_url, model=MODEL, **again)
        assert len(server.journal) == begun + len(asked)
    assert set(job.table(output, gemini_job.ANSWERS)["model"].to_pylist()) == {MODEL}
    assert read_backlog(store, resolved(reask=True), GeminiCameras()) == []
