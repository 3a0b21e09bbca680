"""Batch jobs whose run was killed, whose end was late, or about whose crops others would ask."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from actors.fingerprint import crop_sha256
from actors.gemini import batch_requests
from actors.gemini.answer_journal import JournalEntry, find_paid
from actors.gemini.api.model_families import price_of
from actors.gemini.api.shown_crops import shown_crop
from actors.gemini.backlog.listing import read_backlog
from actors.gemini.protocol import Answers, AskedCrop, DrainTask, Stop
from actors.gemini.settings import GeminiSettings, resolve_gemini
from actors.storage.object_store import ObjectStore
from tests.servers.gemini_clock import ServerClock
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import KEY, MODEL, GeminiServer, gemini_server
from tests.support import gemini_job, job, without_ray
from tests.support.batch_asking import KilledError, batch_annotator, drainer, run_batch
from tests.support.committed import Found, write_output
from tests.support.gemini_asking import SCHEMA, jpeg
from tests.support.online_asking import annotator

A_DAY_S = 86_400
PERSONS = 16


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    """An output of two shards with eight persons each, one per frame; each shard has another camera."""
    store = ObjectStore(str(tmp_path))
    content = {
        f"shard-{shard}": {
            f"frame-{n}": [Found((0.1, 0.1, 0.2, 0.3), crop=jpeg(n, 16, 32))]
            for n in range(8 * shard, 8 * shard + 8)
        }
        for shard in range(2)
    }
    write_output(store, content)
    return store


def server_of(**options: Any):
    return gemini_server(clock=ServerClock(speed=0), batch_delay_s=3600, **options)


def records(store: ObjectStore) -> list[dict[str, Any]]:
    paths = sorted(Path(store.root, "gemini/batches").glob("*.json"))
    return [json.loads(path.read_bytes()) for path in paths]


def paid(store: ObjectStore, model: str = MODEL) -> dict[str, JournalEntry]:
    """Return the answers in the journal, by crop."""
    question = resolve_gemini(GeminiSettings(), SCHEMA).question
    digests = {crop_sha256(jpeg(n, 16, 32)) for n in range(PERSONS)}
    found: dict[str, JournalEntry] = {}
    for shard in range(2):
        found |= find_paid(store, f"shard-{shard}", question, model, digests)
    return found


def sent(server: GeminiServer) -> list[str]:
    """Return the digests of the crops in all jobs, in no particular order."""
    return [image.sha256 for job in server.batches.jobs for _, line in job.lines for image in line.images]


def test_an_answered_job_leaves_no_files_at_google(store):
    with server_of() as server:
        stop, spent = run_batch(store, server)
        assert server.batches.files == []
    assert stop is None
    answers = paid(store)
    assert len(answers) == PERSONS
    assert spent.counted_usd == pytest.approx(sum(entry.cost_usd for entry in answers.values()))
    assert spent.unknown_usd == pytest.approx(0, abs=1e-9)


def test_after_a_failed_submission_nobody_is_sent_who_was_denied_or_answered_since(store):
    answered = [jpeg(n, 16, 32) for n in range(3)]
    with server_of(faults=[Fault("unavailable", where="files")]) as server:
        stop, _ = run_batch(store, server)
        assert stop is not None
        assert stop.kind == "unreachable"
        assert [record["closed"] for record in records(store)] == [None]

        async def ask_online() -> Answers:
            crops = gemini_crops(store, answered)
            return await annotator(store.uri, server).ask(crops)

        assert len(asyncio.run(ask_online()).entries) == 3
        denied = {"cameras": {"allow": ["till"]}}
        stop, _ = run_batch(store, server, "second", **denied)
        assert stop is None
        assert sent(server) == []
        stop, _ = run_batch(store, server, "third")
        assert stop is None
        assert len(sent(server)) == len(set(sent(server))) == PERSONS - 3
        assert not set(sent(server)) & {crop_sha256(image) for image in answered}
        assert server.batches.files == []
    assert sorted(record["closed"] for record in records(store)) == ["lost", "succeeded"]


def gemini_crops(store: ObjectStore, images: list[bytes]) -> list[AskedCrop]:
    """Return the committed crops of the first shard with these bytes."""
    with server_of() as server:
        _, shard = drainer(store, server).load(DrainTask("shard-0"))
    return [AskedCrop("shard-0", crop) for _, crop in shard.crops_by_person() if crop.jpeg in images]


def test_the_egress_record_is_there_before_a_job_can_be_submitted(store):
    class Dies(ObjectStore):
        def create(self, path: str, content: bytes) -> str:
            if path.startswith("gemini/batches/"):
                raise KilledError
            return super().create(path, content)

    with server_of() as server, pytest.raises(KilledError):
        run_batch(Dies(store.uri), server)
    assert records(store) == []
    assert sum(gemini_job.egress(Path(store.root)).values()) == PERSONS


@pytest.mark.parametrize("looks", [0, 3])
def test_the_answers_of_a_job_that_is_late_are_kept_and_the_others_asked_again(store, looks):
    with server_of() as server:
        server.batches.answered_when_ended_early = 3
        server.batches.looks_until_cancelled = looks
        stop, spent = run_batch(store, server, batch={"deadline_s": 120, "poll_s": 60})
        assert stop is None
        assert [record["closed"] for record in records(store)] == ["cancelled"]
        answers = paid(store)
        assert len(answers) == 12
        assert spent.counted_usd == pytest.approx(sum(entry.cost_usd for entry in answers.values()))
        assert server.batches.files == []
        run_batch(store, server, "second")
        assert len(sent(server)) == PERSONS + 4
    assert len(paid(store)) == PERSONS


def test_a_job_that_cannot_be_cancelled_stays_open_and_its_crops_are_not_sent_again(store):
    late = {"batch": {"deadline_s": 120, "poll_s": 60}}
    with server_of() as server:
        server.batches.looks_until_cancelled = 100
        server.batches.answered_when_ended_early = 4
        run_batch(store, server, **late)
        run_batch(store, server, "second", **late)
        assert [record["closed"] for record in records(store)] == [None]
        assert len(sent(server)) == PERSONS
        server.batches.jobs[0].looks_until_cancelled = 0
        run_batch(store, server, "third", **late)
        assert [record["closed"] for record in records(store)] == ["cancelled"]
    assert len(paid(store)) == PERSONS


@pytest.mark.parametrize("fault", ["job_expired", "job_failed"])
def test_a_job_that_ended_while_nobody_waited_is_read_as_far_as_it_got(store, fault):
    with server_of(faults=[Fault(fault)]) as server:
        server.batches.answered_when_ended_early = 3
        with pytest.raises(KilledError):
            run_batch(store, server, dies=True)
        server.clock.advance(A_DAY_S / 2)
        stop, _ = run_batch(store, server, "second")
        again = 4 if fault == "job_expired" else PERSONS
        assert stop is None
        assert len(sent(server)) == PERSONS + again
        assert server.batches.files == []
    assert len(paid(store)) == PERSONS


def test_a_job_of_an_earlier_model_is_finished_and_never_submitted_again(store):
    old = "gemini-2.5-pro"
    with server_of(models=(MODEL, old)) as server:
        with pytest.raises(KilledError):
            run_batch(store, server, dies=True, model=old)
        server.clock.advance(3600)
        stop, spent = run_batch(store, server, "second")
        assert stop is None
        assert len(server.batches.jobs) == 1
    answers = paid(store, old)
    assert len(answers) == PERSONS
    assert {entry.model for entry in answers.values()} == {old}
    # The answers cost what that model costs.
    price = price_of(old)
    expected = sum(
        entry.input_tokens * price.input_usd + entry.output_tokens * price.output_usd
        for entry in answers.values()
    )
    assert spent.counted_usd == pytest.approx(expected / 2_000_000)


def test_a_first_job_that_is_refused_stops_the_stage_with_the_remedy(store):
    with server_of(faults=[Fault("bad_image", None, where="batch")]) as server:
        stop, _ = run_batch(store, server)
        assert len(server.batches.jobs) == 1
    assert stop is not None
    assert stop.kind == "refused"
    assert "check gemini.thinking_level" in stop.reason
    assert paid(store) == {}
    assert [record["closed"] for record in records(store)] == ["succeeded"]


def test_missing_and_doubled_ids_of_a_job_are_asked_again_alone(store):
    faults = [Fault("missing_item", where="batch"), Fault("doubled_item", where="batch")]
    with server_of(faults=faults) as server:
        run_batch(store, server)
        assert len(server.batches.jobs) == 2
        assert len(sent(server)) == PERSONS + 2
    assert len(paid(store)) == PERSONS


def test_a_job_is_made_no_larger_than_the_budget_and_a_killed_run_goes_on_with_the_rest(store):
    with server_of() as server:
        with pytest.raises(KilledError):
            run_batch(store, server, dies=True, max_cost_usd=0.0004)
        assert 0 < len(sent(server)) < PERSONS
        stop, spent = run_batch(store, server, "second", max_cost_usd=0.0004)
    assert stop is not None
    assert stop.kind == "budget"
    a_request = 4 * max(entry.cost_usd for entry in paid(store).values())
    assert 0.0004 <= spent.counted_usd + spent.unknown_usd < 0.0004 + a_request


def test_online_mode_leaves_the_crops_of_open_jobs_alone_and_takes_the_answers_of_ended_ones(store):
    with server_of() as server:
        with pytest.raises(KilledError):
            run_batch(store, server, dies=True)

        def ended(holder: str) -> list[str]:
            return asyncio.run(batch_annotator(store, server, holder).collect_ended())

        in_jobs = ended("online")
        assert sorted(in_jobs) == sorted(sent(server))
        asked: list[AskedCrop] = []

        async def ask(crops: list[AskedCrop]) -> Answers:
            asked.extend(crops)
            return Answers({}, None)

        one = drainer(store, server)
        object.__setattr__(one, "in_jobs", frozenset(in_jobs))
        drained = asyncio.run(one.drain(DrainTask("shard-0"), ask))
        assert (drained.waiting, drained.summary, asked) == (8, None, [])
        server.clock.advance(3600)
        assert ended("later") == []
        drained = asyncio.run(drainer(store, server).drain(DrainTask("shard-0"), ask))
        assert (drained.waiting, drained.answered, asked) == (0, 8, [])
        assert len(server.batches.jobs) == 1


def test_batch_mode_says_how_far_it_is_while_it_makes_pictures(store, monkeypatch):
    asked = threading.Event()

    def slow(jpeg: bytes, settings: GeminiSettings) -> bytes:
        # This would wait in vain if the annotator's event loop made the pictures.
        assert asked.wait(30)
        return shown_crop(jpeg, settings)

    monkeypatch.setattr(batch_requests, "shown_crop", slow)
    with server_of() as server:
        one, found = batch_annotator(store, server), drainer(store, server)
        tasks = [DrainTask(s.shard_id) for s in read_backlog(store, found.resolved, found.cameras)]

        async def run() -> Stop | None:
            collecting = asyncio.create_task(one.collect(tasks))
            await asyncio.sleep(0)
            await one.progress()
            asked.set()
            stop = await collecting
            await one.finish()
            return stop

        assert asyncio.run(run()) is None
    assert len(paid(store)) == PERSONS


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_run_of_online_mode_asks_nobody_who_is_in_an_open_job(tmp_path):
    gemini_job.write_backlog(tmp_path, shards=2, persons=4)
    batch = {"mode": "batch", "batch.poll_s": 0.3, "persons_per_request": 4}
    with gemini_server(batch_delay_s=A_DAY_S) as server:
        driver = gemini_job.start(tmp_path, server.base_url, own_ray=True, **batch)
        assert job.wait_for(lambda: server.batches.jobs, driver)
        gemini_job.kill_everything(driver)
        done = without_ray.gemini(tmp_path, server.base_url, mode="online")
        assert "8 crops in open batch jobs not asked about" in " ".join((done.stdout + done.stderr).split())
        assert server.journal == []
        server.clock.advance(A_DAY_S)
        without_ray.gemini(tmp_path, server.base_url, mode="online")
        assert {seen.where for seen in server.journal} == {"batch"}
        assert len(server.batches.jobs) == 1
    assert gemini_job.outcomes(tmp_path) == {"ok": 8}
