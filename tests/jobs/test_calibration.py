"""What gold labels teach is kept in the output, and final values follow from it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from actors.attributes import AttributeSchema
from actors.corrections import calibration as kept
from actors.corrections.abstention import threshold_for
from actors.corrections.calibration import Curve, HeldOut
from actors.corrections.consensus import Consensus
from actors.corrections.decision_log import read_decisions
from actors.corrections.draw import Draw
from actors.errors import StoreError
from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from benchmarks.calibration import measure
from benchmarks.corrupted_answers import SCHEMA as CORRUPTED
from jobs.evaluation.calibrating import MIN_LABELS
from jobs.serving.deciding import Action, DecisionDesk, Drawn
from jobs.serving.person_table import PersonTable
from jobs.settings import Settings
from tests.support.committed import said
from tests.support.consolidating import consolidate, files_of, globbed
from tests.support.gold import GoldOutput, Labelled, gold_output
from tests.support.in_process import run_in_process

RIGHT = {"smolvlm": 0.75, "gemini": 0.9}


def people(number: int, seed: int = 0, asked: tuple[str, ...] = ("smolvlm", "gemini")) -> list[Labelled]:
    """Persons about whom Gemini is right more often than SmolVLM, and both are too sure of themselves."""
    rng = np.random.default_rng(seed)
    found = []
    for n in range(number):
        true = ("male", "female")[int(rng.integers(2))]
        answers: dict[str, Annotation] = {}
        for name in asked:
            odds = np.log(RIGHT[name] / (1 - RIGHT[name])) + rng.normal(0, 1.5)
            right = rng.random() < 1 / (1 + np.exp(-odds))
            answer = true if right else {"male": "female", "female": "male"}[true]
            answers[name] = said({"gender": float(1 / (1 + np.exp(-2 * odds - 1)))}, gender=answer)
        found.append(Labelled({"gender": true}, answers, camera=f"c{n % 3}", minute=n // 12))
    return found


@pytest.fixture(scope="module")
def decided(tmp_path_factory) -> GoldOutput:
    """An output of 400 persons of whom 320 were drawn and decided."""
    output = gold_output(ObjectStore(str(tmp_path_factory.mktemp("gold") / "out")), people(400))
    drawn = np.random.default_rng(1).choice(400, 320, replace=False)
    output.decide(sorted(drawn.tolist()), 0.8)
    return output


def calibrate(monkeypatch, store: ObjectStore, *options: object) -> int:
    return run_in_process(
        monkeypatch, "evaluate", "--output", store.uri, "--truth", "corrections", "--calibrate", *options
    )


def test_a_calibration_is_kept_with_what_it_was_fitted_on_and_applied(decided, monkeypatch, capsys):
    store = decided.store
    before = {row["frame_key"] + str(row["person_index"]): row for row in globbed(store)}
    assert calibrate(monkeypatch, store) == 0
    assert "calibrated gender (" in capsys.readouterr().out
    found = json.loads(store.read("calibration.json"))
    assert (found["decisions"], found["min_labels"]) == (320, MIN_LABELS)
    curves = found["attributes"]["gender"]["whole"]["curves"]
    assert {name: curve["labels"] for name, curve in curves.items()} == {"smolvlm": 320, "gemini": 320}
    assert curves["gemini"]["asked_with"] == ["m\n1\nx"]
    assert set(curves["gemini"]["log_loss"]) == {"constant", "temperature", "sigmoid", "isotonic"}
    # The next consolidation knows that the calibration is new, and the one after it that it isn't.
    assert run_in_process(monkeypatch, "consolidate", "--output", store.uri) == 0
    assert (
        "weighed by gold labels for gender; consensus.precedence decides age_group" in capsys.readouterr().out
    )
    files = files_of(store, "consolidated")
    assert consolidate(store).written == 0
    assert files_of(store, "consolidated") == files
    rows = [row for row in globbed(store) if row["gender_source"] != "human"]
    assert len(rows) == 80
    for row in rows:
        assert row["gender_source"] in ("agreement", "gemini", "smolvlm")
        stated = max(row["smolvlm_confidence_gender"], row["gemini_confidence_gender"])
        assert row["gender_confidence"] != pytest.approx(stated, abs=1e-6)
        # The answers themselves, and attributes without gold, stay as they were.
        old = before[row["frame_key"] + str(row["person_index"])]
        same = [name for name in row if not name.startswith("gender_") and name != "gender"]
        assert [row[name] for name in same] == [old[name] for name in same]


def test_values_below_the_promised_accuracy_are_withheld(decided, monkeypatch, capsys):
    store = decided.store
    assert calibrate(monkeypatch, store) == 0
    settings = {"consensus": {"min_accuracy": {"gender": 0.85}}}
    assert decided.consolidate(**settings) == []
    rows = [row for row in globbed(store) if row["gender_source"] != "human"]
    withheld = [row for row in rows if row["gender_source"] == "abstained"]
    assert 0 < len(withheld) < len(rows)
    assert {row["gender"] for row in withheld} == {None}
    shown = [row["gender_confidence"] for row in rows if row not in withheld]
    assert max(row["gender_confidence"] for row in withheld) <= min(shown)
    capsys.readouterr()
    run_in_process(monkeypatch, "evaluate", "--output", store.uri, "--truth", "corrections", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["coverage"]["gender"] == pytest.approx(1 - len(withheld) / len(rows))
    run_in_process(monkeypatch, "status", "--output", store.uri, "--json")
    status = json.loads(capsys.readouterr().out)["accuracy"]
    assert status["attributes"]["gender"]["coverage"] == found["coverage"]["gender"]
    assert status["attributes"]["gender"]["n"] == 320
    run_in_process(monkeypatch, "status", "--output", store.uri)
    assert "coverage" in capsys.readouterr().out


def test_too_few_labels_calibrate_nothing_and_a_promise_says_so(tmp_path, monkeypatch, capsys):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people(MIN_LABELS))
    output.decide(range(MIN_LABELS - 1), 0.5)
    # Decisions by need are no gold.
    output.decide([MIN_LABELS - 1], None)
    assert calibrate(monkeypatch, output.store) == 0
    assert "nothing is calibrated" in capsys.readouterr().out
    assert not output.store.exists("calibration.json")
    (warning,) = output.consolidate(consensus={"min_accuracy": {"gender": 0.95}})
    assert "nothing is withheld of gender" in warning
    assert {row["gender_source"] for row in globbed(output.store)} == {"human"}
    run_in_process(monkeypatch, "consolidate", "--output", output.store.uri)
    assert "final values follow consensus.precedence" in capsys.readouterr().out


def test_status_without_labels_says_that_values_are_guesses(tmp_path, monkeypatch, capsys):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people(4))
    run_in_process(monkeypatch, "status", "--output", output.store.uri, "--json")
    found = json.loads(capsys.readouterr().out)["accuracy"]
    assert found["attributes"] == {}
    assert "a model's guess" in found["note"]


def test_answers_of_another_model_are_not_calibrated(decided, monkeypatch):
    assert calibrate(monkeypatch, decided.store) == 0
    found = kept.read_calibration(decided.store)
    assert found is not None
    text = decided.store.read("calibration.json").decode().replace('"m\\n1\\nx"', '"m\\n2\\nx"')
    decided.store.write("calibration.json", text.encode())
    decided.consolidate()
    rows = [row for row in globbed(decided.store) if row["gender_source"] != "human"]
    expected = [
        max(row["smolvlm_confidence_gender"], row["gemini_confidence_gender"])
        if row["smolvlm_gender"] == row["gemini_gender"]
        else row["gemini_confidence_gender"]
        for row in rows
    ]
    assert [row["gender_confidence"] for row in rows] == pytest.approx(expected)
    # Where a promise is made, nothing is shown that isn't calibrated.
    decided.consolidate(consensus={"min_accuracy": 0.6})
    rows = [row for row in globbed(decided.store) if row["gender_source"] != "human"]
    assert {row["gender_source"] for row in rows} == {"abstained"}


def test_of_two_calibrations_at_once_one_wins(decided, monkeypatch):
    assert calibrate(monkeypatch, decided.store) == 0
    found = kept.read_calibration(decided.store)
    assert found is not None
    made, etag = found
    kept.write_calibration(decided.store, made.model_copy(update={"decisions": 1}), etag)
    with pytest.raises(StoreError, match="somebody else has calibrated"):
        kept.write_calibration(decided.store, made, etag)


def held_out(right: list[bool], worth: float = 1.0) -> HeldOut:
    scores = tuple(1 - n / 1000 for n in range(len(right)))
    return HeldOut(scores=scores, right=tuple(right), weights=(1.0,) * len(right), worth=worth)


def test_a_promise_needs_enough_decisions_that_keep_it():
    # 58 right ones of 58 have a lower bound of 0.05 ** (1 / 58) = 0.9497, and 59 one of 0.9505.
    assert threshold_for(held_out([True] * 58), 0.95) == np.inf
    assert threshold_for(held_out([True] * 59), 0.95) == pytest.approx(1 - 58 / 1000)
    assert threshold_for(held_out([True] * 59, worth=0.9), 0.95) == np.inf
    # What is never right is never shown, and what follows it neither.
    found = threshold_for(held_out([True] * 200 + [False] * 200), 0.95)
    assert 1 - 205 / 1000 <= found <= 1 - 199 / 1000


def test_a_curve_gives_the_probability_of_an_answer_with_a_confidence_or_without():
    base = {"unsure": 0.7, "asked_with": (), "labels": 1, "log_loss": {}}
    sure = np.array([0.5, 0.9, np.nan])
    line = Curve(method="temperature", slope=0.5, **base)
    assert line.apply(sure) == pytest.approx([0.5, 0.75, 0.7])
    steps = Curve(method="isotonic", confidences=(0.4, 0.6), probabilities=(0.2, 0.4), **base)
    assert steps.apply(sure) == pytest.approx([0.3, 0.4, 0.7])


def test_on_unseen_scenes_a_calibration_is_right_and_promises_are_kept():
    gender = next(a for a in CORRUPTED if a.name == "gender")
    found = measure(1, gender, labels=300)
    assert found.combined_error < 0.03 < min(found.stated.values())
    assert found.combined >= max(found.accuracy.values())
    assert found.kept is not None
    assert found.kept >= 0.95
    assert found.coverage > 0.2


def test_answers_of_many_values_are_combined_by_values_and_confidences():
    age = next(a for a in CORRUPTED if a.name == "age_group")
    found = measure(1, age, labels=300)
    # By tables of answers alone, without confidences, the error was 0.044.
    assert found.method == "joint"
    assert found.combined_error < 0.03
    assert found.combined >= max(found.accuracy.values()) + 0.05


def test_all_is_right_on_the_page_confirms_no_withheld_value(decided, monkeypatch, tmp_path):
    store = ObjectStore(str(shutil.copytree(decided.store.root, tmp_path / "out")))
    assert calibrate(monkeypatch, store) == 0
    settings = Settings.model_validate({"consensus": {"min_accuracy": {"gender": 0.85}}})
    consolidate(store, of=settings)
    found = kept.read_calibration(store)
    assert found is not None
    schema = AttributeSchema(settings.attributes)
    consensus = Consensus.of(settings.consensus, found[0])
    table = PersonTable(store, schema, consensus, tmp_path / "cache")
    ((number,),) = table.query("SELECT min(id) FROM persons WHERE gender_source = 'abstained'")
    desk = DecisionDesk(store, "ann")
    desk.read(table)
    # The page computes the values that the consolidation has.
    assert table.unsaved == 0
    before = {d.decision_id for some in read_decisions(store).values() for d in some}
    drawn = Drawn(Draw(name="sample 1"), 0.5)
    desk.decide(table, Action(kind="confirm", ids=[number]), drawn)
    made = [d for some in read_decisions(store).values() for d in some if d.decision_id not in before]
    assert {d.attribute for d in made} == set(schema.names) - {"gender"}
    assert desk.open_attributes(table, table.rows([number]), drawn.draw) == {number: ["gender"]}
    table.close()
