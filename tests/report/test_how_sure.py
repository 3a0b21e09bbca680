"""The report says how many women there are and how sure that is, or that nobody knows."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from actors.storage.object_store import ObjectStore
from tests.report.store_output import Page
from tests.support.committed import said
from tests.support.gold import Labelled, gold_output
from tests.support.in_process import run_in_process

PERSONS = 200


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch):
    """A function that makes the report of an output, whose pictures are gone."""

    def made(store: ObjectStore) -> Page:
        assert run_in_process(monkeypatch, "report", "--output", store.uri) in (0, 1)
        return Page(store.read("report.html").decode())

    return made


def people() -> list[Labelled]:
    """Persons of whom every third is a woman, and a model that takes one of ten men for a woman."""
    found = []
    for n in range(PERSONS):
        true = "female" if n % 3 == 0 else "male"
        sure = {"gender": 0.5 + n % 50 / 100}
        answers = {"smolvlm": said(sure, gender="female" if n % 10 == 1 else true, cap=n % 2 == 0)}
        found.append(Labelled({"gender": true}, answers, camera=("door", "till")[n % 2], minute=n // 4))
    return found


def test_without_human_labels_every_number_is_a_guess_and_has_no_interval(
    tmp_path: Path, report, monkeypatch
):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people())
    assert run_in_process(monkeypatch, "analyze", "--output", output.store.uri) == 0
    page = report(output.store)
    assert "Every number here that follows from a label is a model's guess" in page.sections["certain"]
    short = page.sections["short"]
    women = sum(p.answers["smolvlm"].values["gender"] == "female" for p in output.persons) / PERSONS
    assert f"gender : male {1 - women:.1%} , female {women:.1%} , of {PERSONS} persons." in short
    assert (
        "a guess. No person has checked any that were drawn at random, so nobody knows how wrong it is"
        in short
    )
    assert "between" not in short
    for name in ("shares", "certain", "shop"):
        assert not re.search(r"\d% to \d", page.sections[name])
        assert "95% interval" not in page.sections[name]
    assert "These shares rest on a model's guess" in page.sections["shop"]
    assert "their numbers are a model's guess" in page.sections["shop"]
    assert "have changed since" not in page.sections["shop"]
    output.decide([0], 0.5)
    assert "shopframe analyze --output" in report(output.store).sections["shop"].partition("changed since")[2]


def test_a_few_decisions_are_said_to_be_too_few(tmp_path: Path, report):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people())
    output.decide(range(0, PERSONS, 20), 0.05)
    page = report(output.store)
    short = page.sections["short"]
    assert (
        "a guess. People have checked 10 persons that were drawn at random, too few to say how wrong it is: "
        "a range takes 20, not all of one minute."
    ) in short
    assert "between" not in short
    assert "these numbers are the models' guess until then" in page.sections["certain"]
    assert "put right" not in page.sections["certain"]


def test_with_an_audit_the_share_of_women_has_an_interval_that_holds(tmp_path: Path, report, monkeypatch):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people())
    output.decide(random.Random(3).sample(range(PERSONS), PERSONS // 2), 0.5)
    options = ["--output", output.store.uri, "--truth", "corrections"]
    assert run_in_process(monkeypatch, "evaluate", *options) == 0
    assert run_in_process(monkeypatch, "analyze", "--output", output.store.uri) == 0
    page = report(output.store)
    sections = page.sections
    section = sections["certain"]
    found = re.search(r"female (\S+)% (\S+)% (\S+)% to (\S+)% 100", section)
    assert found is not None, section
    model, share, low, high = map(float, found.groups())
    truth = 100 * sum(p.truth["gender"] == "female" for p in output.persons) / PERSONS
    assert low < truth < high
    assert abs(share - truth) < abs(model - truth)
    # The first section and what the shop did have the same interval.
    assert f"female {share}% (between {low}% and {high}%), of {PERSONS} persons." in sections["short"]
    assert f"people, who have looked at {PERSONS // 2} persons drawn at random" in sections["short"]
    assert list(sections).index("short") < min(list(sections).index(name) for name in ("certain", "run"))
    assert f"female {share}% {low}% to {high}%" in sections["shop"]
    assert "gender" in section
    # Nobody was asked about caps.
    assert "which cap" not in section
    assert [
        svg["aria-label"] for svg in page.all("svg") if str(svg["aria-label"]).startswith("How often")
    ] == [
        "How often answers of smolvlm about gender are right by their confidence; the table has the numbers"
    ]
    points = re.findall(r"(\S+)% (\S+)% \S+% to \S+% (\d+)", section.partition("Numbers of smolvlm")[2])
    assert sum(int(n) for _, _, n in points) == PERSONS // 2
    assert [float(stated) for stated, _, _ in points] == sorted(float(stated) for stated, _, _ in points)
    assert "--calibrate fits a calibration" in section
    assert re.search(r"How often final values are right.*gender \S+% \S+% to \S+%", section)
