"""The report says how many women there are and how sure that is, or that nobody knows."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from actors.corrections.decision_log import append
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
    women = sum(p.answers["smolvlm"].values["gender"] == "female" for p in output.persons)
    men = PERSONS - women
    assert f"gender, of {PERSONS} people in pictures: the models' guess" in short
    assert (
        f"male: {men / PERSONS:.1%} , that is {men} female: {women / PERSONS:.1%} , that is {women} " in short
    )
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


def test_numbers_of_people_leave_out_detections_that_show_nobody(tmp_path: Path, report):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people())
    drawn = random.Random(3).sample(range(PERSONS), PERSONS // 2)
    random_draw = {"sampling": "random", "probability": 0.5}
    # Half of the detections are of dolls.
    append(output.store, [output.decision(n, None, kind="not_a_person", **random_draw) for n in drawn[::2]])
    output.decide(drawn[1::2], 0.5)
    section = report(output.store).sections["certain"]
    found = re.search(r"female \S+% (\S+)% .*?about (\d+) \((\d+) to (\d+)\)", section)
    assert found is not None, section
    share, number, least, most = map(float, found.groups())
    # The share is that of women among people, the number that of women.
    assert share / 100 == pytest.approx(1 / 3, abs=0.12)
    assert number == pytest.approx(share / 100 * PERSONS / 2, abs=2)
    assert least < number < most < PERSONS / 3


@pytest.mark.parametrize("width", [1440, 390])
def test_no_table_of_the_section_is_cut_off(tmp_path: Path, report, monkeypatch, browser, width: int):
    output = gold_output(ObjectStore(str(tmp_path / "out")), people())
    output.decide(random.Random(3).sample(range(PERSONS), PERSONS // 2), 0.5)
    options = ["--output", output.store.uri, "--truth", "corrections"]
    assert run_in_process(monkeypatch, "evaluate", *options) == 0
    assert run_in_process(monkeypatch, "analyze", "--output", output.store.uri) == 0
    report(output.store)
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    page.set_default_timeout(20_000)
    page.goto((tmp_path / "out" / "report.html").as_uri())
    page.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    tables = page.locator(".wide:has(.stacked)")
    assert tables.count() > 8
    assert tables.evaluate_all("(all) => all.filter((one) => one.scrollWidth > one.clientWidth).length") == 0
    row = page.get_by_role("row", name=re.compile("^female ")).first
    interval = row.get_by_role("cell").nth(2)
    shown = interval.evaluate("(cell) => getComputedStyle(cell, '::before').content")
    assert (shown == '"95% interval: "') == (width == 390)
    page.context.close()


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
    counted = re.search(r"female .*?about (\d+) \((\d+) to (\d+)\)", section)
    assert counted is not None, section
    number, least, most = map(int, counted.groups())
    assert [number, least, most] == pytest.approx([PERSONS * one / 100 for one in (share, low, high)], abs=1)
    assert least < PERSONS * truth / 100 < most
    assert f"gender, of {PERSONS} people in pictures" in sections["short"]
    assert (
        f"female: {share}% (between {low}% and {high}%), that is about {number} (between {least} and {most})"
    ) in sections["short"]
    assert "and not of visitors" in sections["short"]
    assert f"people, who have looked at {PERSONS // 2} persons drawn at random" in sections["short"]
    assert list(sections).index("short") < min(list(sections).index(name) for name in ("certain", "run"))
    assert f"female {share}% {low}% to {high}% about {number} ({least} to {most})" in sections["shop"]
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
