"""An answer that breaks a rule is kept as it is, or asked for once more, if the settings say so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.attribute_settings import DEFAULT_RULES
from actors.commit.committer import Committer
from actors.commit.settings import OutputSettings
from actors.detect.crops import CropSettings
from actors.detect.restored_crops import CropRestorer
from actors.gemini.answer_journal import file_journal, find_paid
from actors.gemini.backlog.drain import Drained, ShardDrainer
from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.online import OnlineAnnotator
from actors.gemini.protocol import Answers, AskedCrop, DrainTask
from actors.gemini.settings import resolve_gemini
from actors.read.settings import InputSettings
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from tests.servers.gemini_clock import ServerClock
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import GeminiServer, gemini_server
from tests.support import gemini_job, job
from tests.support.batch_asking import KilledError, run_batch
from tests.support.committed import SCHEMA
from tests.support.gemini_asking import settings_for
from tests.support.quota_simulation import SimulatedClock

PERSONS = 8
WITHIN = DEFAULT_RULES[0]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    with gemini_server() as started:
        monkeypatch.setenv("GEMINI_API_KEY", started.key)
        yield started


@pytest.fixture
def output(tmp_path: Path) -> Path:
    gemini_job.write_backlog(tmp_path / "out", shards=1, persons=PERSONS)
    return tmp_path / "out"


def drain(output: Path, server: GeminiServer, reask: bool, dies: bool = False) -> Drained:
    """Work off the only shard, as a run does, or die when the second answers are there."""
    settings = settings_for(server.base_url, requests_per_minute=1000, persons_per_request=PERSONS)
    resolved = resolve_gemini(settings, SCHEMA)
    store = ObjectStore(str(output))
    prints = {"detect": "d", "person_json": "p", "gemini": resolved.fingerprint}
    committer = Committer(store, OutputSettings(), SCHEMA, prints, (resolved.pending,))
    restorer = CropRestorer(InputSettings(), StorageSettings(), CropSettings(), "d")
    drainer = ShardDrainer(committer, SCHEMA, resolved, GeminiCameras(), restorer, reask)

    async def run() -> Drained:
        annotator = OnlineAnnotator(settings, resolved, SCHEMA, store, SimulatedClock())
        await annotator.begin("run")

        async def ask(crops: Sequence[AskedCrop]) -> Answers:
            answers = await annotator.ask(crops)
            if dies and crops[0].is_again:
                raise KilledError
            return answers

        return await drainer.drain(DrainTask("shard-000"), ask)

    return asyncio.run(run())


def rows(output: Path) -> list[dict[str, Any]]:
    return job.table(output, gemini_job.ANSWERS).to_pylist()


def test_an_answer_that_breaks_a_rule_is_kept_with_the_rule_named(output, server):
    server.script.faults.append(Fault("broken_rule"))
    assert drain(output, server, reask=False).answered == PERSONS
    assert len(server.journal) == 1
    for row in rows(output):
        assert (row["status"], row["age_group"], row["exact_age"]) == ("ok", "under 18", 99)
        assert WITHIN in row["violations"]


def test_it_is_asked_for_once_more_and_the_better_answer_is_kept_with_the_cost_of_both(output, server):
    server.script.faults.append(Fault("broken_rule"))
    assert drain(output, server, reask=True).answered == PERSONS
    assert [len(seen.images) for seen in server.journal] == [PERSONS, PERSONS]
    assert set(gemini_job.answered(server.journal).values()) == {2}
    found = rows(output)
    kept = [row for row in found if row["exact_age"] == 99]
    better = [row for row in found if row["exact_age"] != 99]
    assert len(better) >= 2
    assert all(len(row["violations"]) < 2 for row in better)
    assert all(row["violations"] == [WITHIN] for row in kept if len(row["violations"]) < 2)
    assert sum(row["input_tokens"] for row in found) == sum(seen.tokens for seen in server.journal)
    # Once committed, nobody is asked a third time.
    assert drain(output, server, reask=True).answered == 0
    assert len(server.journal) == 2


def test_the_second_answer_does_not_take_the_place_of_the_first_in_the_journal(output, server):
    server.script.faults.append(Fault("broken_rule"))
    drain(output, server, reask=True)
    assert [len(seen.images) for seen in server.journal] == [PERSONS, PERSONS], "the same crops twice"
    objects = (output / "gemini/journal").rglob("*.json")
    entries = [entry for path in objects for entry in json.loads(path.read_text())]
    first, second = (seen.tokens for seen in server.journal)
    # The entries of the second request have the better answer and the cost of both.
    for answers, tokens in ((1, first), (2, first + second)):
        found = [entry["input_tokens"] for entry in entries if entry["answers"] == answers]
        assert (len(found), sum(found)) == (PERSONS, tokens)


def test_only_persons_whose_answer_breaks_a_rule_are_asked_about_again(output, server):
    assert drain(output, server, reask=True).answered == PERSONS
    first, second = server.journal
    # The second answers are the first ones again, so they break as many rules.
    broken = [row for row in rows(output) if row["violations"]]
    assert 1 <= len(broken) < PERSONS
    assert len(second.images) == len(broken)
    assert len(first.images) == PERSONS


@pytest.mark.parametrize("is_filed", [False, True])
def test_after_a_kill_the_better_answer_is_used_with_the_cost_of_both(output, server, is_filed):
    server.script.faults.append(Fault("broken_rule"))
    with pytest.raises(KilledError):
        drain(output, server, reask=True, dies=True)
    if is_filed:
        file_journal(ObjectStore(str(output)))
    assert drain(output, server, reask=True).answered == PERSONS
    assert [len(seen.images) for seen in server.journal] == [PERSONS, PERSONS]
    found = rows(output)
    assert any(row["exact_age"] != 99 for row in found)
    assert sum(row["input_tokens"] for row in found) == sum(seen.tokens for seen in server.journal)


@pytest.mark.parametrize("reask", [True, False])
def test_batch_mode_asks_once_more_too(output, monkeypatch, reask):
    broken = Fault("broken_rule", where="batch")
    with gemini_server(clock=ServerClock(speed=0), batch_delay_s=3600, faults=[broken]) as server:
        monkeypatch.setenv("GEMINI_API_KEY", server.key)
        store = ObjectStore(str(output))
        stop, spent = run_batch(store, server, persons_per_request=PERSONS, reask_violations=reask)
        assert stop is None
        asked = [
            [image.sha256 for _, line in job.lines for image in line.images] for job in server.batches.jobs
        ]
    resolved = resolve_gemini(settings_for(server.base_url), SCHEMA)
    paid = find_paid(store, "shard-000", resolved.question, resolved.model, set(asked[0])).values()
    assert len(paid) == PERSONS
    assert sum(entry.cost_usd for entry in paid) == pytest.approx(spent.counted_usd)
    assert sum(entry.input_tokens for entry in paid) == sum(seen.tokens for seen in server.journal)
    ages = [entry.annotation.values["exact_age"] for entry in paid]
    if reask:
        # The fault makes all answers of the first job break a rule.
        assert [sorted(images) for images in asked] == [sorted(asked[0])] * 2
        assert {entry.answers for entry in paid} == {2}
        assert ages.count(99) <= PERSONS - 2
    else:
        assert len(asked) == 1
        assert ages == [99] * PERSONS
