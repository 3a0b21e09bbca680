"""Shares of attributes rest on random decisions where there are any, in every form that shows them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from actors.corrections.decision_log import append
from actors.storage.object_store import ObjectStore
from tests.analyze.tracked import Analyze
from tests.support.committed import said
from tests.support.gold import GoldOutput, Labelled, gold_output
from tests.support.in_process import run_in_process

PERSONS = 400
GUESS = "a model's guess: nobody of these persons was drawn at random and decided, so there is no interval"


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> GoldOutput:
    """Persons of whom every third is a woman, one of eight is taken for the other, and half were drawn.

    Two of those that were drawn show no person, and only one person at the door was drawn at nine o'clock.
    """
    people = []
    for n in range(PERSONS):
        true = "female" if n % 3 == 0 else "male"
        answer = {"male": "female", "female": "male"}[true] if n % 8 == 0 else true
        age = "18 to 28" if n % 2 else "28 to 38"
        answers = {"smolvlm": said(gender=answer, age_group=age)}
        people.append(Labelled({"gender": true}, answers, camera=("door", "till")[n // 8 % 2], minute=n // 4))
    output = gold_output(ObjectStore(str(tmp_path_factory.mktemp("audited") / "out")), people)
    drawn = random.Random(5).sample(range(PERSONS), PERSONS // 2)
    early = [n for n in drawn if people[n].camera == "door" and people[n].minute < 60]
    drawn = [n for n in drawn if n not in early[1:]]
    output.decide(drawn, 0.5)
    chance = {"sampling": "random", "probability": 0.5}
    nobody = [output.decision(n, None, kind="not_a_person", **chance) for n in drawn[:2]]
    append(output.store, nobody)
    output.consolidate()
    return output


def share_where(monkeypatch, capsys, store: ObjectStore, *conditions: str) -> dict[str, Any]:
    """What `shopframe evaluate --share gender=female` finds."""
    where = [part for condition in conditions for part in ("--where", condition)]
    options = ["--output", store.uri, "--truth", "corrections", "--share", "gender=female", *where, "--json"]
    capsys.readouterr()
    assert run_in_process(monkeypatch, "evaluate", *options) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def women(rows: list[dict[str, Any]], **of: Any) -> dict[str, Any]:
    (row,) = (
        row
        for row in rows
        if row["value"] == "female" and all(row[name] == value for name, value in of.items())
    )
    return row


def test_shares_have_the_intervals_of_evaluate(audited: GoldOutput, analyze: Analyze, monkeypatch, capsys):
    found = analyze.finds(audited.store, "--by", "camera")["attributes"]
    expected = share_where(monkeypatch, capsys, audited.store)
    row = women(found)
    assert [row["share"], row["low"], row["high"], row["decided"]] == pytest.approx(
        [expected["share"][name] for name in ("value", "low", "high", "n")]
    )
    assert row["rests_on"] == expected["note"]
    truth = sum(p.truth["gender"] == "female" for p in audited.persons) / PERSONS
    assert row["low"] < truth < row["high"]
    # Nobody has decided about the age.
    ages = [row for row in found if row["attribute"] == "age_group"]
    assert [row["share"] for row in ages] == pytest.approx([0.5, 0.5], abs=0.01)
    assert {(row["low"], row["high"], row["decided"], row["rests_on"]) for row in ages} == {
        (None, None, 0, GUESS)
    }
    tables = Path(audited.store.uri) / "analysis"
    by_camera = duckdb.sql(f"FROM '{tables}/attributes.parquet' WHERE attribute = 'gender'").to_arrow_table()
    for camera in ("door", "till"):
        expected = share_where(monkeypatch, capsys, audited.store, f"camera={camera}")
        row = women(by_camera.to_pylist(), camera=camera)
        assert [row["share"], row["low"], row["high"]] == pytest.approx(
            [expected["share"][name] for name in ("value", "low", "high")]
        )
    with (tables / "attributes.csv").open() as file:
        written = women(list(csv.DictReader(file)), camera="till")
    assert float(written["low"]) == pytest.approx(row["low"])
    printed = " ".join(analyze.says(audited.store).split())
    row = women(found)
    assert f"female {row['share']:.1%} {row['low']:.1%} to {row['high']:.1%}" in printed
    assert f"gender: {row['rests_on']}" in printed
    assert f"age_group: {GUESS}" in printed


def test_a_share_of_too_few_decisions_is_the_models_and_says_so(audited: GoldOutput, analyze: Analyze):
    analyze.finds(audited.store, "--by", "camera,hour")
    path = Path(audited.store.uri) / "analysis" / "attributes.parquet"
    rows = duckdb.sql(f"FROM '{path}'").to_arrow_table().to_pylist()
    row = women(rows, attribute="gender", camera="door", hour=9)
    at = [n for n, p in enumerate(audited.persons) if (p.camera, p.minute < 60) == ("door", True)]
    answered = [audited.persons[n].answers["smolvlm"].values["gender"] == "female" for n in at]
    assert row["share"] == pytest.approx(sum(answered) / len(at))
    assert (row["decided"], row["low"], row["high"]) == (1, None, None)
    assert "too few to say how sure: 1 of these persons" in row["rests_on"]


def test_zones_and_staff_are_domains_of_their_own(audited: GoldOutput, analyze: Analyze, tmp_path: Path):
    # People stand in four places of a frame, so their number in it says who is where.
    zones = [
        {"name": "left", "rectangle": [0, 0, 0.2, 1]},
        {"name": "right", "kind": "staff", "rectangle": [0.6, 0, 1, 1]},
    ]
    (tmp_path / "zones.yaml").write_text(yaml.safe_dump({"zones": zones}))
    in_all = analyze.finds(audited.store, "--by", "zone", "--zones", tmp_path / "zones.yaml")["attributes"]
    path = Path(audited.store.uri) / "analysis" / "attributes.parquet"
    rows = duckdb.sql(f"FROM '{path}' WHERE attribute = 'gender'").to_arrow_table().to_pylist()
    for number, zone in ((0, "left"), (3, "right")):
        row = women(rows, zone=zone)
        there = [person for n, person in enumerate(audited.persons) if n % 4 == number]
        truth = sum(person.truth["gender"] == "female" for person in there) / len(there)
        assert row["low"] < truth < row["high"]
        assert f"about {len(there)} persons" in row["rests_on"]
    assert f"about {PERSONS * 3 // 4} persons" in women(in_all)["rests_on"]
