"""In a whole job, every fault of a Gemini server leads to its outcome, and every person has one outcome."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from actors.fingerprint import crop_sha256
from tests.gemini.test_client import HARMLESS, PARTLY, RATE_LIMITS, REFUSED, TRANSIENT
from tests.gemini.test_client import OUTCOMES as ALL_OUTCOMES
from tests.servers.gemini_clock import ServerClock, pacific_day
from tests.servers.gemini_faults import BATCH, KINDS, Fault
from tests.servers.gemini_server import KEY, GeminiServer, gemini_server
from tests.support import gemini_job, job, without_ray
from tests.support.gemini_asking import jpeg
from tests.support.online_asking import StandingClock, ask

pytestmark = pytest.mark.timeout(900)

PASSING = (*TRANSIENT, "hang", "drop")
# Of an answer that lacks some ids the rest is kept, so the other faults of its crops would not strike.
OUTCOMES = {kind: outcome for kind, outcome in ALL_OUTCOMES.items() if kind not in PARTLY}
SHARDS, A_SHARD, A_REQUEST = 4, 16, 8
NOON = datetime.fromisoformat("2026-06-10T12:00:00-07:00").timestamp()
SETTINGS = {"requests_per_minute": 1000, "requests_per_day": None, "on_daily_quota": "wait", "timeout_s": 1.5}
WRONG_KEY = "AIza-that-nobody-gave-out"


@dataclass
class Faulty:
    """Results of a run with faults, each of which strikes a different person, and of a run without faults.

    Attributes:
        output: Folder of the output.
        server: The server, after all runs.
        struck: For each fault, the digest of the crop that it strikes.
        refused: For each fault that refuses all requests, the process that met it.
        outcomes: For each run, the outcome of each crop by its digest.
        journals: For each run, the requests that the server saw.
    """

    output: Path
    server: GeminiServer
    struck: dict[str, str]
    refused: dict[str, CompletedProcess[str]]
    outcomes: list[dict[str, str]]
    journals: list[list]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Faulty:
    """Run with a wrong key, with a wrong model, with faults of every kind, and again without faults."""
    output = tmp_path_factory.mktemp("faults") / "out"
    gemini_job.write_backlog(output, SHARDS, A_SHARD)
    # The harmless faults hit different requests, because only the first of several in one request would
    # strike. The other faults precede them in the script, so each of these strikes when its crop is alone or
    # when no other fault is left.
    kinds = [*HARMLESS, *OUTCOMES, *RATE_LIMITS, *PASSING, "internal for ever"]
    requests = SHARDS * A_SHARD // A_REQUEST
    struck = {
        kind: crop_sha256(jpeg(at % requests * A_REQUEST + at // requests, 16, 32))
        for at, kind in enumerate(kinds)
    }
    once = (*RATE_LIMITS, *PASSING)
    faults = [
        # "foreign_value" spoils the first item of an answer. This fault has the request halved until the crop
        # that "foreign_value" should strike is alone.
        Fault("prose", None, min_crops=2, image_sha256=struck["foreign_value"]),
        *(
            Fault(kind.split()[0], 1 if kind in once else None, image_sha256=struck[kind])
            for kind in (*once, "internal for ever", *OUTCOMES, *HARMLESS)
        ),
    ]
    clock = ServerClock(NOON, speed=0)
    with gemini_server(clock=clock, faults=faults) as server:

        def run(expect: int = 0, key: str = KEY, **more: object) -> CompletedProcess[str]:
            asking = gemini_job.options(server.base_url, **{**SETTINGS, **more})
            return without_ray.command(
                "gemini", "--output", output, *asking,
                expect=expect, clock=StandingClock(clock), environment={"GEMINI_API_KEY": key},
            )  # fmt: skip

        refused = {
            "invalid_key": run(2, key=WRONG_KEY),
            "unknown_model": run(2, model="gemini-0-misspelt"),
        }
        assert not server.journal
        found = Faulty(output, server, struck, refused, [], [])
        for _ in range(2):
            begun = len(server.journal)
            run()
            found.journals.append(server.journal[begun:])
            found.outcomes.append(by_digest(output))
            server.script.faults.clear()
    return found


def by_digest(output: Path) -> dict[str, str]:
    """Return the outcome of each crop by its digest, after checking that outcomes and persons match."""
    gemini_job.outcomes(output)
    crops = [crop_sha256(row["crop"]) for row in job.table(output, "persons").to_pylist()]
    statuses = job.table(output, gemini_job.ANSWERS)["status"].to_pylist()
    return dict(zip(crops, statuses, strict=True))


def test_every_fault_is_tested():
    tested = {*OUTCOMES, *PARTLY, *HARMLESS, *RATE_LIMITS, *PASSING, *REFUSED, "broken_rule"}
    assert tested == KINDS - set(BATCH)


def test_each_fault_has_its_outcome_and_nobody_elses(faulty):
    expected = dict.fromkeys(faulty.outcomes[0], "ok")
    expected |= {faulty.struck[kind]: outcome for kind, outcome in OUTCOMES.items()}
    # If the server always fails at one crop, only that crop gets an error.
    expected[faulty.struck["internal for ever"]] = "error"
    assert faulty.outcomes[0] == expected
    assert len(expected) == SHARDS * A_SHARD


def test_what_is_not_ok_has_a_reason_and_another_model_is_named(faulty):
    for row in job.table(faulty.output, gemini_job.ANSWERS).to_pylist():
        assert (row["reason"] is None) == (row["status"] == "ok")
        assert (row["gender"] is None) == (row["status"] != "ok")
    crops = [crop_sha256(row["crop"]) for row in job.table(faulty.output, "persons").to_pylist()]
    versions = job.table(faulty.output, gemini_job.ANSWERS)["model_version"].to_pylist()
    named = dict(zip(crops, versions, strict=True))
    assert named[faulty.struck["other_model"]] == "gemini-3.8-flash"


def test_every_fault_struck(faulty):
    seen = {one.fault for one in faulty.journals[0]}
    assert seen - {None} == {*OUTCOMES, *HARMLESS, *RATE_LIMITS, *PASSING}


def test_refusals_for_a_quota_are_obeyed(faulty):
    journal = faulty.journals[0]
    limited = [at for at, one in enumerate(journal) if one.fault in RATE_LIMITS]
    assert len(limited) == len(RATE_LIMITS)
    for at in limited:
        refusal, next_one = journal[at], journal[at + 1]
        per_day, wait_s, _ = RATE_LIMITS[refusal.fault]
        if per_day:
            assert pacific_day(next_one.at) > pacific_day(refusal.at)
        else:
            assert next_one.at - refusal.at >= (2 if wait_s is None else wait_s)


def test_only_errors_are_asked_about_again(faulty):
    owed = {digest for digest, outcome in faulty.outcomes[0].items() if outcome == "error"}
    assert {image for one in faulty.journals[1] for image in one.images} == owed
    assert faulty.outcomes[1] == {
        digest: "ok" if digest in owed else outcome for digest, outcome in faulty.outcomes[0].items()
    }


@pytest.mark.parametrize("fault", ["invalid_key", "unknown_model"])
def test_a_wrong_key_or_model_stops_the_job_with_the_remedy(faulty, fault):
    done = faulty.refused[fault]
    said = done.stdout + done.stderr
    assert REFUSED[fault] in " ".join(said.split())
    assert "Traceback" not in said
    assert WRONG_KEY not in said
    leaked = [
        path
        for path in faulty.output.rglob("*")
        if path.is_file() and WRONG_KEY.encode() in path.read_bytes()
    ]
    assert leaked == []


def test_a_key_that_is_refused_in_the_middle_stops_the_job_with_the_remedy_and_keeps_the_answers(tmp_path):
    output = tmp_path / "out"
    gemini_job.write_backlog(output, shards=2, persons=4)
    recorded = (output / "run.json").read_bytes()
    refusal = Fault("invalid_key", None, after=1)
    given = {"persons_per_request": 4, "requests_per_minute": 1000, "max_in_flight": 1}
    with gemini_server(faults=[refusal]) as server:
        done = without_ray.gemini(output, server.base_url, expect=2, **given)
        said = done.stdout + done.stderr
        assert "set GEMINI_API_KEY to a valid key" in " ".join(said.split())
        assert "Traceback" not in said
        assert KEY not in said
        assert [seen.status for seen in server.journal] == [200, 400]
        assert (output / "run.json").read_bytes() == recorded
        assert job.table(output, gemini_job.ANSWERS)["status"].to_pylist() == ["ok"] * 4
        server.script.faults.clear()
        without_ray.gemini(output, server.base_url, **given)
        assert set(gemini_job.answered(server.journal).values()) == {1}
    assert gemini_job.outcomes(output) == {"ok": 8}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_refusal_of_all_requests_stops_the_stage_and_is_nobodys_outcome(tmp_path, monkeypatch, fault):
    with gemini_server(faults=[Fault(fault, None)]) as server:
        asked = ask(tmp_path, server, monkeypatch, 3)
    assert asked.stop is not None
    assert asked.stop.kind == "refused"
    assert REFUSED[fault] in asked.stop.reason
    assert asked.entries == {}
    assert len(server.journal) == 1


def test_lasting_trouble_stops_the_stage_after_a_few_requests(tmp_path, monkeypatch):
    with gemini_server(faults=[Fault("unavailable", None)], clock=ServerClock(NOON, speed=0)) as server:
        asked = ask(tmp_path, server, monkeypatch, 64, retries=1, persons_per_request=8)
    assert asked.stop is not None
    assert asked.stop.kind == "unreachable"
    assert "run again later" in asked.stop.reason
    assert asked.entries == {}
    assert len(server.journal) <= 12


@pytest.mark.parametrize("place", range(8))
def test_a_crop_at_which_the_server_always_fails_costs_itself_alone(tmp_path, monkeypatch, place):
    with gemini_server(faults=[Fault("internal", None, image_sha256=crop_sha256(jpeg(place)))]) as server:
        asked = ask(tmp_path, server, monkeypatch, 8, retries=1, persons_per_request=8)
    assert asked.stop is None
    found = {digest: entry.annotation.status for digest, entry in asked.entries.items()}
    assert found == {crop_sha256(jpeg(n)): "error" if n == place else "ok" for n in range(8)}
