"""A budget below the backlog is spent on the persons that the policy puts first."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.errors import ConfigError
from actors.fingerprint import crop_sha256
from actors.gemini.backlog.listing import read_backlog
from actors.gemini.backlog.selection import drain_tasks
from actors.gemini.settings import GeminiSettings, resolve_gemini
from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from tests.servers.gemini_server import gemini_server
from tests.support import gemini_job, without_ray
from tests.support.committed import Found, said, write_output
from tests.support.gemini_asking import jpeg

pytestmark = pytest.mark.timeout(900)

SHARDS, A_SHARD, BUDGET = 4, 25, 20
PERSONS = SHARDS * A_SHARD


def confidence(number: int) -> float:
    """Return SmolVLM's confidence about a person's hood. All are different and in no particular order."""
    return 0.5 + (number * 37 % PERSONS + 1) / (PERSONS + 1) / 2


def answer(number: int) -> Annotation:
    """Return SmolVLM's answer about a person, in which only the hood tells how certain it is.

    The age is the less certain the more certain the hood is. It must not count: its many neighbouring values
    are never certain.
    """
    hood = confidence(number)
    age = (1.01 - hood) / 8
    return said(
        {"gender": 0.999, "hood": hood, "exact_age": age},
        {
            "gender": (("male", 0.999), ("female", 0.001), ("unknown", 0.0)),
            "hood": ((False, hood), (True, 1 - hood), (None, 0.0)),
            "exact_age": tuple((years, age) for years in range(30, 38)),
        },
        hood=False,
        exact_age=30,
    )


LEAST_CONFIDENT = sorted(range(PERSONS), key=confidence)


@pytest.fixture
def output(tmp_path) -> Path:
    """An output with SmolVLM's answer for each person."""
    content = {}
    for shard in range(SHARDS):
        numbers = range(shard * A_SHARD, (shard + 1) * A_SHARD)
        content[f"shard-{shard}"] = {
            f"frame-{n:03d}": [
                Found(
                    (0.1, 0.1, 0.2, 0.3),
                    crop=jpeg(n, 16, 32),
                    answers={"smolvlm": answer(n)},
                )
            ]
            for n in numbers
        }
    write_output(ObjectStore(str(tmp_path / "out")), content)
    return tmp_path / "out"


def chosen(output: Path, **settings: object) -> list[int]:
    """Return the numbers of the persons that a run would ask about, in order."""
    given = GeminiSettings(enabled=True, **settings)
    resolved = resolve_gemini(given, AttributeSchema(SchemaSettings()))
    store = ObjectStore(str(output))
    tasks = drain_tasks(store, given, resolved, read_backlog(store, resolved, given.cameras))
    return [int(frame_key[-3:]) for task in tasks for frame_key, _ in task.chosen or ()]


def test_the_oldest_shards_come_first_and_the_last_is_cut(output):
    assert chosen(output, max_persons=30) == list(range(30))


def test_a_random_sample_depends_on_the_seed_alone(output):
    first = chosen(output, policy="random", max_persons=BUDGET)
    assert len(set(first)) == BUDGET
    assert chosen(output, policy="random", max_persons=BUDGET) == first
    assert set(chosen(output, policy="random", max_persons=BUDGET, seed=1)) != set(first)
    # With one seed in 300, a sample of 20 misses one of the four shards; this seed misses none.
    assert {number // A_SHARD for number in first} == set(range(SHARDS))
    assert len(set(first) & set(LEAST_CONFIDENT[:BUDGET])) < BUDGET / 2


def test_without_an_audit_exactly_the_least_confident_are_chosen(output):
    found = chosen(output, policy="least_confident", max_persons=BUDGET, audit_share=0)
    assert set(found) == set(LEAST_CONFIDENT[:BUDGET])


def test_an_attribute_of_weight_zero_does_not_rank(output):
    weights = {"hood": 0}
    found = chosen(
        output, policy="least_confident", max_persons=BUDGET, audit_share=0, attribute_weights=weights
    )
    # All persons are equally certain then, and the order of their keys decides.
    assert sorted(found) == list(range(PERSONS - BUDGET, PERSONS))


def test_a_weight_of_an_attribute_that_does_not_exist_is_refused(output):
    with pytest.raises(ConfigError, match=r"gemini\.attribute_weights\.hut: no such attribute"):
        chosen(output, policy="least_confident", attribute_weights={"hut": 1})


def test_a_budget_above_the_backlog_is_everybody(output):
    for policy in ("oldest", "random", "least_confident"):
        assert sorted(chosen(output, policy=policy, max_persons=1000)) == list(range(PERSONS))


def test_runs_spend_their_budgets_on_the_least_confident_and_an_audit_and_on_nobody_twice(output):
    settings = {
        "policy": "least_confident",
        "max_persons": BUDGET,
        "audit_share": 0.1,
        "requests_per_minute": 1000,
    }
    numbers = {crop_sha256(jpeg(n, 16, 32)): n for n in range(PERSONS)}
    asked: list[set[int]] = []
    with gemini_server() as server:
        for _ in range(2):
            begun = len(server.journal)
            without_ray.gemini(output, server.base_url, **settings)
            images = [image for seen in server.journal[begun:] for image in seen.images]
            assert len(images) == BUDGET
            asked.append({numbers[image] for image in images})
            assert gemini_job.outcomes(output)["ok"] == BUDGET * len(asked)
    # Two persons are drawn at random and may be among the least confident; 18 are chosen by confidence.
    assert set(LEAST_CONFIDENT[:18]) <= asked[0]
    rest = [number for number in LEAST_CONFIDENT if number not in asked[0]]
    assert set(rest[:18]) <= asked[1]
    assert not asked[0] & asked[1]
    audited = [n for n in asked[0] | asked[1] if LEAST_CONFIDENT.index(n) >= 2 * BUDGET]
    assert 1 <= len(audited) <= 4
