"""Random audits of some persons: decisions count for those who could be drawn, and for nobody else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.corrections.decision_log import append
from actors.corrections.draw import EVERYBODY, Among, Comparison, Draw, among, in_words
from actors.storage.object_store import ObjectStore
from tests.support.committed import said
from tests.support.gold import GoldOutput, Labelled, gold_output
from tests.support.in_process import run_in_process

TILL = among([[Comparison(column="camera", value="till")]])
TRUTH = {"gender": "male", "age_group": "28 to 38"}
EARLY = among([[Comparison(column="hour", operator="<", value="10")]])

UNUSED = "random, not among those for whom the numbers stand, not used"


def people(number: int) -> list[Labelled]:
    """Persons at two cameras, alternately; the model is right at the door and wrong at the till."""
    found = []
    for n in range(number):
        camera = ("door", "till")[n % 2]
        answer = {"door": "male", "till": "female"}[camera]
        found.append(Labelled(TRUTH, {"smolvlm": said(gender=answer)}, camera, minute=n))
    return found


def decide(
    output: GoldOutput,
    numbers: Sequence[int],
    name: str,
    conditions: Among,
    probability: float,
    attribute: str | None = "gender",
    **given: Any,
):
    draw = Draw(name=name, among=conditions)
    random = {"sampling": "random", "probability": probability, "draw": draw.model_dump()}
    append(output.store, [output.decision(number, attribute, **random, **given) for number in numbers])


@pytest.fixture
def output(tmp_path: Path) -> GoldOutput:
    return gold_output(ObjectStore(str(tmp_path / "out")), people(160))


@pytest.fixture
def evaluate(output: GoldOutput, capsys, monkeypatch):
    """A function that evaluates the output against its corrections, and returns what it prints."""

    def evaluated(*options: str) -> str:
        capsys.readouterr()
        command = ["evaluate", "--output", output.store.uri, "--truth", "corrections", *options]
        assert run_in_process(monkeypatch, *command) == 0
        return capsys.readouterr().out

    return evaluated


def share(evaluate: Any, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(evaluate("--share", "gender=female", "--json", *options))
    return found


def test_an_audit_of_one_camera_says_nothing_about_the_others(output: GoldOutput, evaluate, monkeypatch):
    decide(output, range(1, 81, 2), "a", TILL, 0.5)
    whole = share(evaluate)
    assert (whole["share"]["low"], whole["share"]["value"]) == (None, 0.5)
    assert "80 of these 160 persons could not be drawn" in whole["note"]
    assert "drawn among camera=till only" in whole["note"]
    assert whole["by_labels_alone"]["value"] is None
    till = share(evaluate, "--where", "camera=till")
    assert till["share"]["value"] == 0
    assert till["share"]["high"] < 0.15
    assert "could not be drawn" in share(evaluate, "--where", "hour=9")["note"]
    assert share(evaluate, "--where", "camera=till", "--where", "hour=9")["share"]["low"] is not None
    assert "they were drawn among camera=till: for the 80 other persons these estimates" in evaluate()
    assert json.loads(evaluate("--json"))["outside"] == 80
    assert run_in_process(monkeypatch, "analyze", "--output", output.store.uri, "--by", "camera") == 0
    summary = json.loads(output.store.read("analysis/summary.json"))
    assert "could not be drawn" in summary["attributes"][0]["rests_on"]


def test_a_stray_decision_among_everybody_does_not_make_one_camera_stand_for_all(
    output: GoldOutput, evaluate
):
    decide(output, range(1, 81, 2), "a", TILL, 0.5)
    decide(output, [0], "b", EVERYBODY, 1 / 160)
    assert "drawn among camera=till only" in share(evaluate)["note"]
    found = json.loads(evaluate("--json"))
    assert (found["outside"], found["drawn_among"]) == (80, "camera=till")
    # The person at the door would stand for 160 others.
    assert found["annotators"]["smolvlm"]["gender"]["accuracy"]["value"] == 0
    assert found["decisions"] == {"random, used": 40, UNUSED: 1}
    # Draws among the same persons count together.
    decide(output, range(2, 22, 2), "b", EVERYBODY, 11 / 160)
    assert share(evaluate)["share"]["low"] is None
    decide(output, range(22, 40, 2), "c", EVERYBODY, 9 / 160)
    assert share(evaluate)["share"]["low"] is not None


def test_too_few_decisions_of_each_draw_are_too_few_together(output: GoldOutput, evaluate):
    decide(output, range(1, 31, 2), "a", TILL, 15 / 80)
    decide(output, range(16), "b", EVERYBODY, 0.1)
    for where in ((), ("--where", "camera=till")):
        assert share(evaluate, *where)["share"]["low"] is None


def test_decisions_without_a_draw_are_about_everybody_however_few(output: GoldOutput, evaluate):
    decide(output, range(1, 81, 2), "a", TILL, 0.5)
    output.decide([0], 0.5)
    assert json.loads(evaluate("--json"))["outside"] == 0


def test_beside_recorded_draws_decisions_without_one_are_a_draw_among_everybody(output: GoldOutput, evaluate):
    decide(output, range(1, 41, 2), "a", TILL, 0.25)
    output.decide(range(0, 80, 4), 0.25)
    output.decide(range(41, 81, 4), 0.125)
    # At the door one person stands for 1 / 0.25, and at the till for 1 / (1 - 0.75 * 0.75) by whichever draw.
    door, till = 20 / 0.25, 30 / (1 - 0.75 * 0.75)
    accuracy = json.loads(evaluate("--json"))["annotators"]["smolvlm"]["gender"]["accuracy"]
    assert accuracy["value"] == pytest.approx(door / (door + till))


def test_a_person_counts_by_all_draws_that_it_could_come_into(output: GoldOutput, evaluate):
    # Of everybody 40 of 160 were decided, half of them at the till, and of the till 20 of 80 more.
    decide(output, range(40), "a", EVERYBODY, 0.5)
    decide(output, range(41, 81, 2), "a", TILL, 0.5)
    found = json.loads(evaluate("--json"))
    # At the door one person stands for 1 / 0.25, at the till for 1 / (1 - 0.75 * 0.75).
    door, till = 20 / 0.25, 40 / (1 - 0.75 * 0.75)
    gender = found["annotators"]["smolvlm"]["gender"]
    assert gender["accuracy"]["value"] == pytest.approx(door / (door + till))
    assert (found["outside"], found["drawn_among"]) == (0, "camera=till and among everybody")
    assert share(evaluate)["share"]["low"] is not None


def test_a_draw_that_was_enlarged_is_one_draw(output: GoldOutput, evaluate):
    decide(output, range(0, 40, 2), "a", EVERYBODY, 20 / 160)
    decide(output, range(1, 81, 2), "a", EVERYBODY, 60 / 160)
    found = json.loads(evaluate("--json"))["annotators"]["smolvlm"]["gender"]["accuracy"]
    assert found["value"] == pytest.approx(20 / 60)


def test_draws_that_together_reach_everybody_are_a_sample_of_everybody(output: GoldOutput, evaluate):
    decide(output, range(1, 41, 2), "a", TILL, 0.25)
    door = among([[Comparison(column="camera", operator="!=", value="till")]])
    decide(output, range(0, 160, 2), "b", door, 1.0)
    found = share(evaluate)
    # All of the door were decided and a quarter of the till, so one of the till stands for four.
    assert found["by_labels_alone"]["value"] == 0
    accuracy = json.loads(evaluate("--json"))["annotators"]["smolvlm"]["gender"]["accuracy"]
    assert accuracy["value"] == pytest.approx(0.5)
    assert accuracy["n"] == 100


def test_who_is_no_person_in_a_draw_without_decisions_about_an_attribute_is_not_of_its_sample(
    output: GoldOutput, evaluate
):
    decide(output, range(0, 80, 2), "a", EVERYBODY, 0.5)
    before = share(evaluate)
    # An audit of ages at the till, half of whose detections show nobody.
    decide(output, range(1, 21, 2), "b", TILL, 0.25, None, kind="not_a_person")
    decide(output, range(21, 41, 2), "b", TILL, 0.25, "age_group")
    assert share(evaluate) == before
    decide(output, range(81, 91, 2), "a", EVERYBODY, 0.5, None, kind="not_a_person")
    assert share(evaluate)["share"]["n"] == before["share"]["n"] + 5


@pytest.mark.parametrize(("operator", "anybody"), [("!=", True), ("=", False), ("<", False)])
def test_a_value_that_a_column_cannot_have_is_compared_as_on_the_page(
    output: GoldOutput, evaluate, operator: Any, anybody: bool
):
    noon = among([[Comparison(column="hour", operator=operator, value="noon")]])
    decide(output, range(40), "a", noon, 0.25)
    used = "random, used" if anybody else UNUSED
    assert json.loads(evaluate("--json"))["decisions"] == {used: 40}
    assert (share(evaluate)["share"]["low"] is not None) == anybody


def test_a_draw_among_persons_chosen_by_their_values_is_counted_and_not_used(output: GoldOutput, evaluate):
    women = among([[Comparison(column="gender", value="female")]])
    unsure = among([[Comparison(column="gender_confidence", operator="<", value="0.5")]])
    answered = among([[Comparison(column="smolvlm_gender", value="female")]])
    gone = among([[Comparison(column="weather", value="rain")]])
    for name, conditions in (("a", women), ("b", unsure), ("c", answered), ("d", gone)):
        decide(output, range(3), name, conditions, 0.5)
    found = json.loads(evaluate("--json"))
    assert found["decisions"] == {"random, among persons chosen by their values, not used": 12}
    assert "a model's guess" in found["note"]


def test_conditions_are_compared_without_their_order():
    camera = [Comparison(column="camera", value=name) for name in ("till", "door")]
    hour = Comparison(column="hour", operator=">=", value="9")
    assert among([camera, [hour]]) == among([[hour], camera[::-1], [hour]])
    assert in_words(among([camera, [hour]])) == "camera=door or camera=till, hour>=9"
    assert in_words(EARLY) == "hour<10"
    assert in_words(EVERYBODY) == "everybody"
