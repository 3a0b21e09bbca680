"""Gemini is asked once about one person where answers are shared, else about different people first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.fingerprint import crop_sha256
from actors.reuse.groups import find_groups
from actors.reuse.settings import ReuseSettings
from jobs.settings import load_settings
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import KEY, GeminiServer, gemini_server
from tests.support import gemini_job, job, without_ray
from tests.support.gemini_draining import drain
from tests.support.sequences import Seen, commit_for_gemini, sequences

UNLIMITED = {"requests_per_day": None, "requests_per_minute": 1000, "max_in_flight": 1}
SHARING = ("--set", "annotate.reuse=10")


@pytest.fixture(scope="module")
def shards() -> list[Seen]:
    return [sequences(12, seed=5, shard_id="a"), sequences(12, seed=6, shard_id="b")]


def commit(output: Path, shards: list[Seen], server: GeminiServer, *options: str, **gemini: Any) -> None:
    given = [*gemini_job.options(server.base_url, **gemini), *options, "output.keep_crops=always"]
    settings = load_settings((), [option for option in given if option != "--set"]).settings
    commit_for_gemini(output, shards, settings)


def ask(output: Path, server: GeminiServer, *options: str, **settings: Any) -> list[str]:
    """Run `shopframe gemini`, and return the crops that it asked about, in order, without repetitions."""
    begun = len(server.journal)
    without_ray.gemini(output, server.base_url, *options, max_side_px=None, **settings)
    return list(dict.fromkeys(image for seen in server.journal[begun:] for image in seen.images))


def status(output: Path) -> dict[str, Any]:
    return json.loads(without_ray.command("status", "--output", output, "--json").stdout)


def firsts(shards: list[Seen]) -> set[str]:
    """Return the crops that come first in their groups, or are in none."""
    found = set()
    for seen in shards:
        persons = seen.block.kept_persons()
        groups = find_groups(seen.block.frames, persons, ReuseSettings(), 10)
        later = {person for group in groups.groups for person in group[1:]}
        found |= {crop_sha256(crop) for at, crop in enumerate(seen.crops) if at not in later}
    return found


def everybody(shards: list[Seen]) -> set[str]:
    return {crop_sha256(crop) for seen in shards for crop in seen.crops}


def test_one_of_each_group_is_asked_and_everybody_has_an_outcome(tmp_path, shards):
    with gemini_server() as server:
        commit(tmp_path, shards, server, *SHARING)
        asked = ask(tmp_path, server, *SHARING, **UNLIMITED)
        assert set(asked) == firsts(shards)
        found = gemini_job.outcomes(tmp_path)
        assert found == {"ok": len(asked), "inherited": len(everybody(shards)) - len(asked)}
        assert ask(tmp_path, server, *SHARING, **UNLIMITED) == []
        rows = job.table(tmp_path, gemini_job.ANSWERS).to_pylist()
        inherited = [row for row in rows if row["status"] == "inherited"]
        assert {(row["cost_usd"], row["input_tokens"]) for row in inherited} == {(0, 0)}
        sources = {row["reuse_group"]: row for row in rows if row["status"] == "ok"}
        assert all(row["gender"] == sources[row["reuse_group"]]["gender"] for row in inherited)
        said = status(tmp_path)
        assert said["annotators"]["gemini"]["inherited"] == len(inherited)
        assert said["quota"]["persons_waiting"] == 0
        without_ray.command("verify", "--output", tmp_path)

        # Without sharing, those without an answer of their own are asked, and nobody else.
        own = ("--set", "annotate.reuse=0")
        assert set(ask(tmp_path, server, *own, **UNLIMITED)) == everybody(shards) - firsts(shards)
        assert gemini_job.outcomes(tmp_path) == {"ok": len(rows)}
        # Their answers are their own now, so sharing again changes nothing.
        assert ask(tmp_path, server, *SHARING, **UNLIMITED) == []
        assert gemini_job.outcomes(tmp_path) == {"ok": len(rows)}


def test_where_an_answer_is_blocked_somebody_else_of_the_group_is_asked(tmp_path, shards):
    seen = shards[0]
    groups = find_groups(seen.block.frames, seen.block.kept_persons(), ReuseSettings(), 10).groups
    clearest, next_one, *_ = (crop_sha256(seen.crops[at]) for at in max(groups, key=len))
    with gemini_server(faults=[Fault("blocked_prompt", times=None, image_sha256=clearest)]) as server:
        commit(tmp_path, [seen], server, *SHARING)
        asked = ask(tmp_path, server, *SHARING, **UNLIMITED)
    assert set(asked) >= {next_one, *firsts([seen])}
    found = gemini_job.outcomes(tmp_path)
    assert found["blocked"] == 1
    assert found["ok"] == len(asked) - 1
    assert found["inherited"] == len(seen.crops) - len(asked) > 0


def test_with_a_daily_quota_one_of_each_group_comes_first_in_all_shards(tmp_path, shards, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with gemini_server() as server:
        commit(tmp_path, shards, server)
        drained = drain(tmp_path, server, requests_per_day=1000, max_side_px=None)
        asked = [image for seen in server.journal for image in seen.images]
    first = firsts(shards)
    assert set(asked[: len(first)]) == first
    assert set(asked) == everybody(shards)
    # First both shards, then what is left of both.
    assert [done.shard_id for done in drained] == ["a", "b", "a", "b"]
    assert gemini_job.outcomes(tmp_path) == {"ok": len(everybody(shards))}


@pytest.mark.parametrize("options", [(), ("--set", "annotate.spread=0")])
def test_without_a_limit_or_without_spreading_shards_are_asked_whole(tmp_path, shards, options):
    limit = {"requests_per_day": 1000} if options else {}
    with gemini_server() as server:
        commit(tmp_path, shards, server, *options, **UNLIMITED | limit)
        commits = job.attempts(tmp_path)
        asked = ask(tmp_path, server, *options, **UNLIMITED | limit, persons_per_request=64)
        assert len(server.journal) == 1 or set(asked[: len(firsts(shards))]) != firsts(shards)
    assert set(asked) == everybody(shards)
    assert {record["attempt"] for record in job.records(tmp_path).values()} == {2}
    assert job.attempts(tmp_path).keys() == commits.keys()


@pytest.mark.parametrize("policy", ["oldest", "least_confident"])
def test_a_budget_goes_to_different_people(tmp_path, shards, policy: str):
    budget = {"policy": policy, "audit_share": 0, "max_persons": len(firsts(shards)) + 2}
    with gemini_server() as server:
        commit(tmp_path, shards, server, **budget)
        asked = ask(tmp_path, server, **UNLIMITED | budget)
    assert len(asked) == budget["max_persons"]
    assert set(asked) >= firsts(shards)


def test_a_budget_of_questions_covers_whole_groups_where_answers_are_shared(tmp_path, shards):
    budget = len(firsts(shards)) // 2
    with gemini_server() as server:
        commit(tmp_path, shards, server, *SHARING)
        asked = ask(tmp_path, server, *SHARING, **UNLIMITED, max_persons=budget)
        assert len(asked) == budget
        assert set(asked) < firsts(shards)
        found = gemini_job.outcomes(tmp_path)
        assert found["ok"] == budget
        assert found["inherited"] > 0
        ask(tmp_path, server, *SHARING, **UNLIMITED, max_persons=None)
    assert gemini_job.outcomes(tmp_path).keys() == {"ok", "inherited"}
    assert gemini_job.outcomes(tmp_path)["ok"] == len(firsts(shards))
