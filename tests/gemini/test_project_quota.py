"""The quota belongs to the project: outputs and keys of one project share it; earlier counts hold."""

from __future__ import annotations

import asyncio
import json
from datetime import date
from pathlib import Path

import pytest

from actors.gemini.quota.ledger import key_id_of
from actors.gemini.quota.place import ledger_place, other_ledgers
from actors.gemini.quota.quota import Quota, QuotaLimits
from actors.gemini.settings import GeminiSettings
from actors.storage.object_store import ObjectStore
from jobs.run.output_status import output_status
from tests.servers.gemini_server import KEY, MODEL
from tests.support import gemini_job
from tests.support.in_process import run_in_process
from tests.support.quota_simulation import SimulatedClock, refusal, take, take_all

LIMITS = QuotaLimits(100, None, 12)
DAY = date(2026, 6, 10)


def holder(output: str, clock: SimulatedClock, key: str = "AIza-one", **settings: str) -> Quota:
    """Return a holder for an output with these settings of the gemini section."""
    place = GeminiSettings(**settings).ledger_place(ObjectStore(output))
    return Quota(place, LIMITS, key_id_of(key), clock)


def write_ledger_of_key(output: Path, key: str, spent: int, **content: object) -> None:
    """Write a ledger as version 0.1 did."""
    path = output / "quota" / f"{key_id_of(key)}.{MODEL}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger = {
        "schema_version": "1",
        "revision": 3,
        "writer": "abc",
        "days": {DAY.isoformat(): spent},
        "spent_day": None,
        "held_from": 0.0,
        "held_until": 0.0,
        "shrunk_at": 0.0,
        "share": 1.0,
        "leases": [],
    }
    path.write_text(json.dumps(ledger | content))


def test_two_outputs_with_one_ledger_share_the_day(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        shared = str(tmp_path / "shared")
        one, two = (holder(str(tmp_path / name), clock, ledger_uri=shared) for name in ("one", "two"))
        for _ in range(6):
            await take(one)
            await take(two)
        assert (await refusal(one)).reason == (await refusal(two)).reason == "per_day"

    asyncio.run(run())


def test_two_outputs_with_one_ledger_share_the_day_on_s3(bucket):
    async def run() -> None:
        clock = SimulatedClock()
        one, two = (holder(f"{bucket}/{name}", clock, ledger_uri=f"{bucket}/one") for name in ("one", "two"))
        await take_all(one)
        assert (await refusal(two)).reason == "per_day"

    asyncio.run(run())


def test_a_new_key_of_the_project_goes_on_counting_and_only_hashes_are_kept(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        await take_all(holder(str(tmp_path), clock, "AIza-one"))
        assert (await refusal(holder(str(tmp_path), clock, "AIza-two"))).reason == "per_day"
        clock.time += 86_400
        await take(holder(str(tmp_path), clock, "AIza-two"))

    asyncio.run(run())
    (path,) = (tmp_path / "quota").glob("*.json")
    assert path.name == f"default.{MODEL}.json"
    assert "AIza" not in path.read_text()
    assert json.loads(path.read_text())["keys"] == {
        key_id_of("AIza-one"): "2026-06-10",
        key_id_of("AIza-two"): "2026-06-11",
    }


def test_projects_and_models_have_quotas_of_their_own(tmp_path):
    async def run() -> None:
        clock = SimulatedClock()
        for settings in ({}, {"project": "other"}, {"model": "gemini-2.5-flash"}):
            assert len((await take_all(holder(str(tmp_path), clock, **settings)))[0]) == 12

    asyncio.run(run())
    assert len(list((tmp_path / "quota").glob("*.json"))) == 3


def test_what_keys_have_spent_by_an_earlier_version_counts_once(tmp_path):
    write_ledger_of_key(tmp_path, "AIza-one", 3)
    write_ledger_of_key(tmp_path, "AIza-two", 4)

    async def run() -> None:
        clock = SimulatedClock()
        assert (await holder(str(tmp_path), clock).status()).spent_today == 7
        assert len((await take_all(holder(str(tmp_path), clock)))[0]) == 5
        again = holder(str(tmp_path), clock, "AIza-two")
        assert (await refusal(again)).reason == "per_day"
        assert (await again.status()).spent_today == 12

    asyncio.run(run())


def test_a_day_that_an_earlier_version_saw_spent_stays_spent(tmp_path):
    write_ledger_of_key(tmp_path, "AIza-one", 3, spent_day=DAY.isoformat())
    assert asyncio.run(refusal(holder(str(tmp_path), SimulatedClock()))).reason == "per_day"


def test_each_output_brings_what_it_has_spent_to_a_shared_ledger_once(tmp_path):
    async def run() -> None:
        clock, shared = SimulatedClock(), str(tmp_path / "shared")
        for name, spent in (("one", 2), ("two", 3)):
            for _ in range(spent):
                await take(holder(str(tmp_path / name), clock))
        outputs = [str(tmp_path / name) for name in ("one", "two", "one", "two")]
        holders = [holder(output, clock, ledger_uri=shared) for output in outputs]
        for one in holders:
            await take(one)
        assert (await holders[0].status()).spent_today == 2 + 3 + 4

    asyncio.run(run())


def test_status_reads_the_ledger_of_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    output, shared = tmp_path / "out", tmp_path / "shared"
    gemini_job.write_backlog(output, 0, 0)
    options = gemini_job.options("http://127.0.0.1:9", ledger_uri=str(shared), project="cams")
    assert run_in_process(monkeypatch, "gemini", "--output", output, *options) == 0

    async def spend() -> None:
        place = ledger_place(ObjectStore(str(tmp_path / "other")), str(shared), "cams", MODEL)
        await take_all(Quota(place, QuotaLimits(5, None, 12)))

    asyncio.run(spend())
    quota = output_status(ObjectStore(str(output)))["quota"]
    assert (quota["spent_today"], quota["left_today"]) == (5, 245)


@pytest.mark.parametrize(
    ("settings", "warned"),
    [({}, True), ({"ledger_uri": "../shared"}, False), ({"project": "other"}, False)],
)
def test_a_ledger_in_another_output_beside_is_warned_of(tmp_path, monkeypatch, capfd, settings, warned):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    output, other = tmp_path / "out", tmp_path / "other"
    for folder in (output, other):
        gemini_job.write_backlog(folder, 0, 0)
    asyncio.run(take(holder(str(other), SimulatedClock())))
    asyncio.run(take(holder(str(output), SimulatedClock())))
    options = gemini_job.options("http://127.0.0.1:9", **settings)
    assert run_in_process(monkeypatch, "gemini", "--output", output, *options) == 0
    said = capfd.readouterr()
    assert (f"set gemini.ledger_uri={other}" in said.out + said.err) is warned


def test_ledgers_of_other_outputs_are_found_anywhere_above_in_a_bucket(bucket):
    async def spend(output: str) -> None:
        await take(holder(output, SimulatedClock()))

    output = ObjectStore(f"{bucket}/runs/today/out")
    for name in ("runs/today/out", "runs/today/beside", "above"):
        asyncio.run(spend(f"{bucket}/{name}"))
    ObjectStore(f"{bucket}/photos").write("a.jpg", b"x")
    found = other_ledgers(output, "default", MODEL)
    assert found == [f"{bucket}/runs/today/beside", f"{bucket}/above"]
