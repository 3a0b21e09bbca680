"""`--select` finds the persons that the page shows with the same filter."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.errors import ConfigError
from jobs.exchange.selection import select_persons
from tests.serve.served import Client, Output
from tests.support.committed import SCHEMA
from tests.support.in_process import run_in_process


@pytest.mark.parametrize(
    ("selected", "filtered"),
    [
        ("certainty<0.5", {"column": "certainty", "operator": "<", "value": 0.5}),
        ("rarity<0.25", {"column": "rarity", "operator": "<", "value": 0.25}),
        ("gender_disagrees=true", {"column": "gender_disagrees", "value": True}),
        ("hour=9", {"column": "hour", "value": 9}),
        ("hour=null", {"column": "hour", "value": None}),
        ("day=2026-05-02", {"column": "day", "value": "2026-05-02"}),
        ("rule=any", {"column": "rule", "value": "any"}),
        ("rule=null", {"column": "rule", "value": None}),
        ("rule=exact_age within age_group", {"column": "rule", "value": "exact_age within age_group"}),
        ("decided=true", {"column": "decided", "value": True}),
    ],
)
def test_a_selection_has_the_persons_of_the_pages_filter(
    client: Client, output: Output, selected: str, filtered: dict[str, Any]
):
    client.ask("decide", kind="value", ids=[4], attribute="gender", value="male")
    output.consolidate()
    client.ask("about")
    shown = client.ids("all", filtered)
    everybody = output.rows("shard_id, frame_key, person_index")
    assert 0 < len(shown) < len(everybody)
    selection = select_persons(output.store, SCHEMA, [selected], None, "need")
    assert selection.chosen == {everybody[number] for number in shown}


def test_rules_that_do_not_hold_are_selected_by_what_they_say(output: Output):
    kept = select_persons(output.store, SCHEMA, ["rule!=exact_age within age_group"], None, "need")
    broken = select_persons(output.store, SCHEMA, ["rule=exact_age within age_group"], None, "need")
    assert (len(kept.chosen), len(broken.chosen)) == (12, 6)


def test_a_column_that_no_person_has_is_explained(output: Output):
    with pytest.raises(ConfigError, match=r"no column colour; .*they have .*certainty.*gender_disagrees"):
        select_persons(output.store, SCHEMA, ["colour=red"], None, "need")


@pytest.mark.parametrize(
    ("condition", "said"),
    [("gendr=male", "did you mean gender"), ("gender=mael", "choose male, female or unknown")],
)
def test_what_is_spelled_wrong_is_answered_with_what_there_is(output: Output, condition: str, said: str):
    with pytest.raises(ConfigError, match=said):
        select_persons(output.store, SCHEMA, [condition], None, "need")


def test_persons_in_dispute_are_exported(client: Client, output: Output, monkeypatch: pytest.MonkeyPatch):
    to = output.cache / "review"
    command = ["review", "export", "--output", output.path, "--to", to, "--select", "disagreement>0"]
    assert run_in_process(monkeypatch, *command) == 0
    exported = json.loads((to / "exported.json").read_text())
    assert len(exported["frames"]) == len(client.ids("disagreeing")) == 3


@pytest.mark.parametrize("queue", ["least_certain", "disagreeing", "violations", "rare"])
def test_a_queue_is_exported_in_the_pages_order(
    client: Client, output: Output, monkeypatch: pytest.MonkeyPatch, queue: str
):
    client.ask("decide", kind="value", ids=[4], attribute="gender", value="male")
    output.consolidate()
    client.ask("about")
    shown = [output.rows("shard_id, frame_key, person_index")[number] for number in client.ids(queue)]
    to = output.cache / "review"
    command = ["review", "export", "--output", output.path, "--to", to, "--queue", queue, "--limit", 2]
    assert run_in_process(monkeypatch, *command) == (0 if shown else 2)
    if shown:
        exported = json.loads((to / "exported.json").read_text())
        frames = [(frame["shard_id"], frame["frame_key"]) for frame in exported["frames"]]
        assert frames == list(dict.fromkeys(key[:2] for key in shown[:2]))


def test_a_queue_is_not_audited(output: Output, monkeypatch: pytest.MonkeyPatch, capfd):
    to = output.cache / "review"
    command = ["review", "export", "--output", output.path, "--to", to, "--queue", "rare"]
    assert run_in_process(monkeypatch, *command, "--purpose", "audit", "--limit", 3) == 2
    assert "--queue: leave it out" in capfd.readouterr().err
