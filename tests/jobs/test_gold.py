"""Accuracy against the output's own random decisions; the expected numbers were worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actors.corrections.decision_log import append
from actors.storage.object_store import ObjectStore
from jobs.evaluation.estimates import more_needed, share_of, wilson
from jobs.evaluation.proportion import Proportion
from tests.support.committed import said
from tests.support.gold import GoldOutput, Labelled, gold_output
from tests.support.in_process import run_in_process


def person(true: str, answer: str, camera: str = "door", minute: int = 0, **more) -> Labelled:
    truth = {"gender": true, "occlusion": False, "exact_age": 30} | more.pop("truth", {})
    return Labelled(truth, {"smolvlm": said(gender=answer, **more)}, camera, minute)


@pytest.fixture
def evaluated(capsys, monkeypatch):
    """A function that evaluates an output against its corrections, and returns the JSON object."""

    def evaluate_it(output: GoldOutput, *options: object):
        capsys.readouterr()
        arguments = ["evaluate", "--output", output.store.uri, "--truth", "corrections", "--json", *options]
        code = run_in_process(monkeypatch, *arguments)
        said = capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out)

    return evaluate_it


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "out"))


def gender(found, annotator="smolvlm"):
    return found["annotators"][annotator]["gender"]


def test_without_labels_every_value_is_said_to_be_a_guess(store, evaluated, capsys, monkeypatch):
    output = gold_output(store, [person("male", "male"), person("female", "male")])
    output.decide([1], None)
    found = evaluated(output)
    assert found["decisions"] == {"by need, not used": 1}
    assert "a model's guess" in found["note"]
    assert gender(found)["accuracy"] == {"value": None, "low": None, "high": None, "n": 0}
    assert run_in_process(monkeypatch, "evaluate", "--output", store.uri, "--truth", "corrections") == 0
    shown = capsys.readouterr().out
    assert "a model's guess" in shown
    assert "accuracy" not in shown.replace("about its accuracy", "")


def test_a_decision_weighs_one_over_its_probability(store, evaluated):
    # Of the door, 1 of 2 persons was drawn, of the till all. So the only person of the door stands for two.
    persons = [person("male", "male"), person("male", "male"), *[person("male", "female", "till", 3)] * 2]
    output = gold_output(store, persons)
    output.decide([0], 0.5)
    output.decide([2, 3], 1.0)
    found = gender(evaluated(output))
    assert found["accuracy"]["value"] == pytest.approx(2 / 4)
    assert found["accuracy"]["n"] == 3
    assert found["by"]["camera"]["door"]["value"] == 1
    assert found["by"]["camera"]["till"]["value"] == 0
    assert set(found["by"]["hour"]) == {"09"}
    assert set(found["by"]["occlusion"]) == {"yes"}
    # Boxes of 0.1 and 0.2 of 1000 pixels.
    assert {name: one["n"] for name, one in found["by"]["height_px"].items()} == {"96-128": 2, "192-256": 1}


def test_decisions_by_need_are_counted_and_never_used(store, evaluated):
    persons = [person("male", "male") for _ in range(4)] + [person("female", "male") for _ in range(4)]
    output = gold_output(store, persons)
    output.decide([0, 1, 2, 4], 0.5)
    output.decide([5, 6, 7], None)
    # A later correction by need does not change what the audit found.
    append(store, [output.decision(0, value="female")])
    output.consolidate()
    found = evaluated(output)
    assert found["decisions"] == {"by need, not used": 4, "random, used": 4}
    assert gender(found)["accuracy"]["value"] == pytest.approx(3 / 4)
    assert (found["labelled"], found["persons"]) == (4, 8)


def test_what_becomes_of_decisions_adds_up(store, evaluated):
    output = gold_output(store, [person("male", "male", minute=n) for n in range(6)])
    chance = {"sampling": "random", "probability": 0.5}
    withdrawn = output.decision(0, **chance)
    gone = output.decision(1, **chance).model_copy(update={"bbox": (0.9, 0.9, 1.0, 1.0)})
    made = [
        withdrawn,
        output.decision(0, None, kind="withdrawal", withdraws=withdrawn.decision_id),
        output.decision(1, value="female", **chance),
        output.decision(1, **chance),
        output.decision(2, None, kind="not_a_person", **chance),
        output.decision(2, **chance),
        output.decision(3, attribute="gender", value="plaid", **chance),
        output.decision(4, None, kind="box", new_bbox=(0.1, 0.1, 0.2, 0.2), **chance),
        gone.model_copy(update={"frame_key": "elsewhere"}),
        output.decision(5),
    ]
    append(store, made)
    found = evaluated(output)
    assert found["decisions"] == {
        "by need, not used": 1,
        "random, about a box or a detection": 2,
        "random, about a value that the attributes lack": 1,
        "random, replaced by a later one": 1,
        "random, used": 2,
        "random, without a person now": 1,
        "withdrawn, or a withdrawal": 2,
    }
    assert sum(found["decisions"].values()) == len(made)
    # Of the two persons with a used decision one is no person, and the later decision about the other counts.
    assert gender(found)["accuracy"] | {"low": 0, "high": 0} == {"value": 1, "low": 0, "high": 0, "n": 1}


def test_confusion_f1_and_errors_of_numbers(store, evaluated):
    pairs = [
        ("male", "male", 30, 30),
        ("male", "male", 30, 40),
        ("female", "male", 20, 10),
        ("female", "female", 50, 50),
    ]
    persons = [
        person(true, answer, minute=n, exact_age=answered, truth={"exact_age": age})
        for n, (true, answer, age, answered) in enumerate(pairs)
    ]
    output = gold_output(store, persons)
    output.decide(range(4), 0.25, "gender", "exact_age")
    found = evaluated(output)
    confusion = gender(found)["confusion"]
    assert confusion["values"] == ["male", "female"]
    assert confusion["decisions"] == [[2, 0], [1, 1]]
    assert confusion["shares"] == [[0.5, 0], [0.25, 0.25]]
    # male: 2 right ones of 5 mentions, each right one mentions twice.
    assert [one["value"] for one in gender(found)["f1"]] == pytest.approx([4 / 5, 2 / 3])
    assert gender(found)["macro_f1"]["value"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    age = found["annotators"]["smolvlm"]["exact_age"]
    assert age["accuracy"]["value"] == pytest.approx(0.5)
    assert age["mean_absolute_error"]["value"] == pytest.approx(5)
    assert found["annotators"]["final"]["gender"]["accuracy"]["value"] == pytest.approx(0.75)


def test_an_interval_of_persons_with_equal_weights_is_wilsons():
    rng = np.random.default_rng(1)
    hits = rng.random(400) < 0.8
    found = share_of(hits, np.full(400, 20.0), np.arange(400))
    plain = Proportion.of(int(hits.sum()), 400)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=2e-4)


def test_persons_of_one_cluster_are_worth_less():
    hits = np.repeat(np.random.default_rng(1).random(100) < 0.8, 4)
    alone = share_of(hits, np.ones(400), np.arange(400))
    together = share_of(hits, np.ones(400), np.arange(400) // 4)
    assert together.high - together.low == pytest.approx(2 * (alone.high - alone.low), rel=0.05)
    # All right: nothing is known of the variance, so the clusters count.
    sure = share_of(np.ones(400, np.bool_), np.ones(400), np.arange(400) // 4)
    assert sure.low == pytest.approx(wilson(1, 100)[0])


@pytest.mark.parametrize(("share", "n"), [(0.9, 50), (0.5, 10), (1.0, 30), (None, 0)])
def test_the_decisions_that_are_still_needed_make_the_interval_as_narrow_as_wished(share, n):
    more = more_needed(share, n, float(n), 0.06)
    low, high = wilson(0.5 if share is None else share, n + more)
    assert high - low <= 0.06
    low, high = wilson(0.5 if share is None else share, n + more - 1)
    assert high - low > 0.06
    assert more_needed(0.9, 5000, 5000.0, 0.06) == 0


def test_no_more_decisions_are_asked_for_than_persons_are_left(store, evaluated, capsys, monkeypatch):
    output = gold_output(store, [person("male", "male" if n % 4 else "female", minute=n) for n in range(40)])
    output.decide(range(12), 0.3)
    append(store, [output.decision(12, None, kind="not_a_person", sampling="random", probability=0.3)])
    found = gender(evaluated(output))
    assert (found["more_decisions"], found["more_is_everybody"]) == (40 - 13, True)
    few = gender(evaluated(output, "--width", "0.5"))
    assert (few["more_decisions"] < 27, few["more_is_everybody"]) == (True, False)
    assert run_in_process(monkeypatch, "evaluate", "--output", store.uri, "--truth", "corrections") == 0
    shown = capsys.readouterr().out
    assert "27 (all)" in shown
    assert "everybody who is left, after whom the accuracy about these persons is known exactly" in shown
    # Nobody has decided ages yet, so nearly everybody can be drawn for them.
    assert evaluated(output)["annotators"]["smolvlm"]["exact_age"]["more_decisions"] == 40 - 1


def test_intervals_hold_for_unequal_probabilities_and_clusters():
    # Cameras differ in accuracy and in how many of their persons are drawn; the two of a frame are alike.
    rng = np.random.default_rng(14)
    accuracy, chance = np.repeat([0.95, 0.7], 2000), np.repeat([0.05, 0.2], 2000)
    contained = []
    for _ in range(300):
        right = np.repeat(rng.random(2000) < accuracy[::2], 2)
        drawn = np.repeat(rng.random(2000) < chance[::2], 2)
        clusters = np.arange(4000) // 2
        found = share_of(right[drawn], 1 / chance[drawn], clusters[drawn])
        contained.append(found.low <= 0.825 <= found.high)
    assert 0.91 <= np.mean(contained) <= 0.985
