"""Shares among an archive's persons, with intervals that hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actors.corrections.decision_log import append
from actors.storage.object_store import ObjectStore
from benchmarks.shares import archive_of, simulate, simulate_two_audits
from jobs.evaluation.shares import Labelled as Drawn
from jobs.evaluation.shares import estimate_share
from tests.support.committed import said
from tests.support.gold import Labelled, gold_output
from tests.support.in_process import run_in_process


def people(number: int) -> list[Labelled]:
    """Persons at two cameras of whom every third is a woman, and a model that takes some for the other."""
    found = []
    for n in range(number):
        true = "female" if n % 3 == 0 else "male"
        answer = {"male": "female", "female": "male"}[true] if n % 11 == 0 else true
        answers = {"smolvlm": said(gender=answer)}
        found.append(Labelled({"gender": true}, answers, camera=("door", "till")[n % 2], minute=n // 4))
    return found


@pytest.fixture
def share(capsys, monkeypatch):
    """A function that estimates a share of an output, and returns the exit code, stdout and stderr."""

    def share_of(store: ObjectStore, *options: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_in_process(
            monkeypatch, "evaluate", "--output", store.uri, "--truth", "corrections", "--share", *options
        )
        found = capsys.readouterr()
        return code, found.out, found.err

    return share_of


def test_a_share_is_a_guess_until_some_persons_are_decided_and_then_it_has_an_interval(tmp_path, share):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people(120))
    code, out, _ = share(output.store, "gender=female")
    assert code == 0
    assert "a model's guess" in out
    assert "interval " not in out.replace("no interval", "")
    women = sum(p.answers["smolvlm"].values["gender"] == "female" for p in output.persons)
    assert f"that is {women} of 120 persons in frames (not visitors)" in out
    # Half of the persons were drawn, and one of the till was called no person.
    drawn = list(range(60))
    output.decide(drawn, 0.5)
    chance = {"sampling": "random", "probability": 0.5}
    append(output.store, [output.decision(7, None, kind="not_a_person", **chance)])
    code, out, _ = share(output.store, "gender=female", "--where", "camera=till", "--json")
    found = json.loads(out)
    predicted = [p.answers["smolvlm"].values["gender"] == "female" for p in output.persons]
    till = [n for n in range(120) if n % 2]
    assert (found["persons"], found["share"]["n"]) == (60, 30)
    assert found["model"] == pytest.approx(np.mean([predicted[n] for n in till]))
    truth = np.array([output.persons[n].truth["gender"] == "female" and n != 7 for n in till[:30]])
    assert found["by_labels_alone"]["value"] == pytest.approx(truth.sum() / 29)
    real = np.array([n != 7 for n in till[:30]], np.float64)
    expected = estimate_share(
        sum(predicted[n] for n in till), 60, Drawn(
            truth.astype(np.float64), real, np.array([predicted[n] for n in till[:30]], np.float64),
            np.full(30, 0.5), np.array([(n // 4) for n in till[:30]]),
        )
    )  # fmt: skip
    assert found["share"]["value"] == pytest.approx(expected.value)
    assert (found["share"]["low"], found["share"]["high"]) == pytest.approx((expected.low, expected.high))
    # Of the number of detections, all of which are known.
    number = found["number"]
    assert number["low"] < number["value"] < number["high"]
    assert number["value"] == pytest.approx(60 * expected.value * 29 / 30, abs=0.5)
    code, out, _ = share(output.store, "gender=female", "--where", "camera=till")
    assert (
        f"that is about {number['value']:.0f} ({number['low']:.0f} to {number['high']:.0f}) of 60 persons"
        in out
    )
    # Too few of one minute for an interval.
    code, out, _ = share(output.store, "gender=female", "--where", "captured_at<2026-05-02 09:02")
    assert "too few to say how sure: 8" in out
    code, out, _ = share(output.store, "gender=female", "--where", "camera=roof")
    assert "no person fits the conditions" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["gender"], "write attribute=value"),
        (["gender=plaid"], "none of its values"),
        (["colour=red"], "write attribute=value"),
        (["gender=female", "--where", "cap=true"], "cap depends on final values"),
        (["gender=female", "--where", "gender_confidence>0.5"], "gender_confidence depends on final values"),
        (["gender=female", "--where", "colour=red"], "no column colour"),
    ],
)
def test_what_is_no_share_is_refused_with_the_remedy(tmp_path, share, options, message):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people(4))
    code, _, err = share(output.store, *options)
    assert code == 2
    assert message in err


def test_intervals_contain_the_share_and_are_narrower_than_those_of_decisions_alone():
    found = simulate(archive_of(0), repetitions=150, labels=300, seed=5)
    assert 0.91 <= found.contains <= 0.99
    assert found.relative_width <= 0.7


@pytest.mark.parametrize("drawn", [0.5, 1.0])
def test_intervals_of_an_unfinished_audit_contain_the_share(drawn):
    archive = archive_of(0)
    part = int(drawn * len(archive.truth))
    found = simulate(archive, repetitions=150, labels=300, seed=5, drawn=part)
    assert 0.91 <= found.contains <= 0.99
    assert 0.91 <= found.alone_contains <= 0.99


def test_intervals_of_two_audits_that_overlap_contain_the_share():
    found = simulate_two_audits(archive_of(0), repetitions=150, labels=200, seed=5)
    assert 0.91 <= found.contains <= 0.99
    assert 0.91 <= found.alone_contains <= 0.99


def test_only_an_audit_of_everybody_that_is_finished_leaves_nothing_uncertain(tmp_path, share):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people(60))
    output.decide(list(range(20, 60)), 1.0)
    _, out, _ = share(output.store, "gender=female", "--json")
    found = json.loads(out)["share"]
    assert found["high"] - found["low"] > 0.05
    assert found["low"] <= 1 / 3 <= found["high"]
    output.decide(list(range(19)), 1.0)
    _, out, _ = share(output.store, "gender=female", "--json")
    found = json.loads(out)["share"]
    assert found["high"] - found["low"] > 0
    output.decide([19], 1.0)
    _, out, _ = share(output.store, "gender=female", "--json")
    found = json.loads(out)["share"]
    assert (found["low"], found["value"], found["high"]) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_an_audit_under_a_filter_is_one_of_those_who_fit_it(tmp_path, share):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people(60))
    till = [n for n in range(60) if n % 2]
    truth = sum(n % 3 == 0 for n in till) / len(till)
    widths = []
    for some in (till[8:], till[:8]):
        output.decide(some, 1.0)
        _, out, _ = share(output.store, "gender=female", "--where", "camera=till", "--json")
        found = json.loads(out)["share"]
        assert found["low"] - 1e-9 <= truth <= found["high"] + 1e-9
        widths.append(found["high"] - found["low"])
    assert widths[0] > 0.05
    assert widths[1] == pytest.approx(0)


def test_a_model_that_was_never_seen_wrong_is_not_taken_for_perfect():
    truth = np.repeat([0.0, 1.0], 50)
    drawn = Drawn(truth, np.ones(100), truth, np.full(100, 0.01), np.arange(100))
    found = estimate_share(5000, 10_000, drawn)
    assert found.value == pytest.approx(0.5)
    # Of 100 persons without an error up to 3% may be wrong.
    assert 0.02 < found.high - found.low < 0.08
    assert estimate_share(0, 0, drawn).value is None


def test_a_model_that_knows_nothing_is_left_out():
    rng = np.random.default_rng(3)
    truth, predicted = (rng.random((2, 400)) < 0.4).astype(np.float64)
    drawn = Drawn(truth, np.ones(400), predicted, np.full(400, 0.01), np.arange(400))
    found, alone = (estimate_share(30_000, 40_000, drawn, trust) for trust in (None, 0.0))
    assert found.value == pytest.approx(truth.mean(), abs=0.05)
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.02)
