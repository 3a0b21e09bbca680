"""`shopframe review`: what a person changes in VIA comes back as exactly these decisions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from actors.corrections.decision import MISSED, Decision
from actors.corrections.decision_log import append, read_decisions
from actors.corrections.draw import in_words
from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from jobs.exchange.exported import Exported
from jobs.settings import Settings
from tests.support import bad_inputs as bad
from tests.support.committed import FRAME_HEIGHT_PX, FRAME_WIDTH_PX, Found, said, write_output
from tests.support.in_process import run_in_process

LEFT, RIGHT, FAR = (0.1, 0.1, 0.2, 0.5), (0.15, 0.1, 0.25, 0.5), (0.6, 0.2, 0.7, 0.9)
Change = Callable[[dict[str, Any]], None]


class Review:
    """An output of two frames with two persons each, and an export of it to VIA."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.output, self.to, self.source = folder / "out", folder / "review", folder / "in"
        self._monkeypatch = monkeypatch
        self.source.mkdir()
        images = {
            f"{key}.jpg": bad.jpeg(FRAME_WIDTH_PX, FRAME_HEIGHT_PX, seed) for seed, key in enumerate("fg")
        }
        (self.source / "a.tar").write_bytes(bad.tar(images))
        self.settings = Settings.model_validate(
            {"input": {"uri": str(self.source)}, "output": {"uri": str(self.output)}}
        )
        self.write(LEFT, RIGHT)
        self.run("consolidate")

    def write(self, *boxes: tuple[float, ...]) -> None:
        men = [Found(box, answers={"smolvlm": said({"gender": 0.25}, gender="male")}) for box in boxes]
        write_output(ObjectStore(str(self.output)), {"a": {"f": men, "g": men}}, self.settings)

    def run(self, *arguments: object, expect: int = 0) -> None:
        code = run_in_process(self._monkeypatch, *arguments, "--output", self.output)
        assert code == expect

    def export(self, *options: object) -> None:
        self.run("review", "export", "--format", "via", "--to", self.to, *options)

    def change(self, change: Change) -> None:
        path = self.to / "via-0001.json"
        project = json.loads(path.read_text())
        change(project)
        path.write_text(json.dumps(project))

    def take_back(self, expect: int = 0) -> list[Decision]:
        known = set(self.decisions())
        self.run("review", "import", "--from", self.to, "--reviewer", "ann", expect=expect)
        return [decision for name, decision in self.decisions().items() if name not in known]

    def decisions(self) -> dict[str, Decision]:
        found = read_decisions(ObjectStore(str(self.output))).get("a", [])
        return {decision.decision_id: decision for decision in found}

    def rows(self, columns: str) -> list[tuple[Any, ...]]:
        self.run("consolidate")
        table = f"'{self.output}/consolidated/*.parquet'"
        order = "ORDER BY frame_key, person_index"
        return duckdb.sql(f"SELECT {columns} FROM {table} {order}").fetchall()


@pytest.fixture
def review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Review:
    return Review(tmp_path, monkeypatch)


def regions(project: dict[str, Any], frame: str) -> list[dict[str, Any]]:
    (image,) = (i for i in project["_via_img_metadata"].values() if i["filename"] == f"frames/a.{frame}.jpg")
    return image["regions"]


def said_in(project: dict[str, Any], frame: str, person: int) -> dict[str, Any]:
    return regions(project, frame)[person]["region_attributes"]


def test_a_project_has_the_frames_beside_it_and_every_person(review: Review):
    review.export()
    project = json.loads((review.to / "via-0001.json").read_text())
    images = project["_via_img_metadata"]
    assert project["_via_image_id_list"] == list(images)
    folder = project["_via_settings"]["core"]["default_filepath"]
    for name, image in images.items():
        frame = review.to / folder / image["filename"]
        assert frame.stat().st_size == image["size"]
        assert name == f"{image['filename']}{image['size']}"
    assert regions(project, "f")[0]["shape_attributes"] == {
        "name": "rect", "x": 200, "y": 100, "width": 200, "height": 400,
    }  # fmt: skip
    said = said_in(project, "f", 1)
    assert (said["person_id"], said["gender"], said["glasses"]) == ("a/f/1", "male", "true")
    described = project["_via_attributes"]["region"]
    assert {described[name]["type"] for name in ("gender", "glasses", "exact_age", "not_a_person")} == {
        "dropdown", "radio", "text", "checkbox",
    }  # fmt: skip


def test_an_import_without_a_change_is_no_decision(review: Review):
    review.export()
    assert review.take_back() == []


def test_a_corrected_value_is_final_and_survives_another_detection(review: Review):
    review.export()
    review.change(lambda project: said_in(project, "f", 0).update(gender="female"))
    (decision,) = review.take_back()
    assert (decision.kind, decision.attribute, decision.value, decision.replaces) == (
        "value", "gender", "female", "male",
    )  # fmt: skip
    assert (decision.reviewer, decision.tool, decision.sampling) == ("ann", "via", "need")
    columns = "gender, gender_source, gender_confidence"
    assert review.rows(columns) == [("female", "human", 1.0), *[("male", "smolvlm", 0.25)] * 3]
    review.write(FAR, (0.11, 0.1, 0.21, 0.5))
    assert review.rows(columns) == [
        ("male", "smolvlm", 0.25),
        ("female", "human", 1.0),
        *[("male", "smolvlm", 0.25)] * 2,
    ]


def test_a_correction_that_finds_nobody_is_listed(review: Review, capsys: pytest.CaptureFixture[str]):
    review.export()
    review.change(lambda project: said_in(project, "f", 0).update(gender="female"))
    review.take_back()
    review.run("review", "lost")
    assert "0 corrections without a person" in capsys.readouterr().out
    review.write(FAR)
    review.rows("gender")
    assert "1 correction without a person" in capsys.readouterr().err
    review.run("review", "lost")
    assert "gender = 'female', by ann" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "kind", "content"),
    [
        pytest.param(lambda p: regions(p, "f").pop(0), "not_a_person", {}, id="deleted"),
        pytest.param(
            lambda p: said_in(p, "f", 0).update(not_a_person={"yes": True}), "not_a_person", {}, id="ticked"
        ),
        pytest.param(
            lambda p: regions(p, "f")[0]["shape_attributes"].update(x=202, width=100),
            "box",
            {"new_bbox": (0.101, 0.1, 0.151, 0.5)},
            id="moved",
        ),
        pytest.param(
            lambda p: said_in(p, "f", 0).update(exact_age="41"),
            "value",
            {"attribute": "exact_age", "value": 41},
            id="a number",
        ),
        pytest.param(
            lambda p: said_in(p, "f", 0).update(exact_age=""),
            "value",
            {"attribute": "exact_age", "value": None},
            id="emptied",
        ),
        pytest.param(
            lambda p: said_in(p, "f", 0).update(glasses="false", person_id=""),
            "value",
            {"attribute": "glasses", "value": False},
            id="without its id",
        ),
    ],
)
def test_each_change_comes_back_as_one_decision(
    review: Review, change: Change, kind: str, content: dict[str, Any]
):
    review.export()
    review.change(change)
    (decision,) = review.take_back()
    assert decision.kind == kind
    assert decision.bbox == pytest.approx(LEFT)
    for name, value in content.items():
        assert getattr(decision, name) == (pytest.approx(value) if name == "new_bbox" else value)
    assert review.take_back() == [], "the same file again"


def test_drawn_and_copied_regions_are_missed_persons(review: Review):
    def draw(project: dict[str, Any]) -> None:
        shape = {"name": "rect", "x": 1200, "y": 200, "width": 200, "height": 700}
        drawn = {"shape_attributes": shape, "region_attributes": {"gender": "female"}}
        copy = {"shape_attributes": {**shape, "x": 1600}, "region_attributes": said_in(project, "f", 0)}
        regions(project, "f").extend([drawn, copy])

    review.export()
    review.change(draw)
    found = review.take_back()
    assert {decision.detection for decision in found} == {MISSED}
    assert [d.bbox for d in found if d.kind == "missed_person"] == [
        pytest.approx((0.6, 0.2, 0.7, 0.9)), pytest.approx((0.8, 0.2, 0.9, 0.9)),
    ]  # fmt: skip
    assert len(review.rows("is_person")) == 4


def test_a_text_that_is_no_value_is_reported_and_the_rest_counts(
    review: Review, capsys: pytest.CaptureFixture[str]
):
    review.export()
    review.change(
        lambda p: (said_in(p, "f", 0).update(exact_age="old"), said_in(p, "g", 0).update(cap="false"))
    )
    (decision,) = review.take_back(expect=1)
    assert decision.attribute == "cap"
    said = capsys.readouterr().err
    assert "a.f.jpg: a/f/0: exact_age: 'old' is none of its values" in said
    assert "choose a whole number from 0 to 120 or nothing" in said


def test_persons_are_chosen_by_conditions(review: Review):
    review.export("--select", "gender=male", "--select", "frame_key=g", "--select", "gender_confidence<0.5")
    project = json.loads((review.to / "via-0001.json").read_text())
    assert [image["filename"] for image in project["_via_img_metadata"].values()] == ["frames/a.g.jpg"]


def test_persons_are_chosen_by_comparing_columns(review: Review, capsys: pytest.CaptureFixture[str]):
    review.run("review", "export", "--to", review.to, "--select", "gender!=smolvlm_gender", expect=2)
    assert "there is no such person" in capsys.readouterr().err
    review.export()
    review.change(lambda project: said_in(project, "f", 0).update(gender="female"))
    review.take_back()
    review.run("consolidate")
    review.export("--select", "gender!=smolvlm_gender")
    assert "1 person chosen of 1" in capsys.readouterr().out


def test_an_audit_records_the_probability_of_those_who_were_drawn(review: Review):
    review.export("--purpose", "audit", "--limit", "1")
    exported = Exported.read(ObjectStore(str(review.to)))
    (frame,) = exported.frames
    assert sorted((p.sampling, p.probability) for p in frame.persons) == [("need", None), ("random", 0.25)]
    drawn = next(n for n, p in enumerate(frame.persons) if p.sampling == "random")
    review.change(lambda p: said_in(p, frame.frame_key, drawn).update(gender="female"))
    (decision,) = (d for d in review.take_back() if d.attribute == "gender")
    assert (decision.value, decision.sampling, decision.probability) == ("female", "random", 0.25)


def test_an_audit_records_among_whom_it_was_drawn(review: Review, capsys: pytest.CaptureFixture[str]):
    def drawn(*conditions: str) -> str:
        review.export("--purpose", "audit", *(part for one in conditions for part in ("--select", one)))
        review.change(lambda project: project["_via_settings"]["ui"].update(leftsidebar_width=20))
        found = {d.draw for d in review.take_back()}
        assert len(found) == 1
        draw = found.pop()
        assert draw is not None
        names.append(draw.name)
        return in_words(draw.among)

    names: list[str] = []
    assert drawn() == "everybody"
    # The same values of the same persons are decided once more, or the second sample would lack them.
    assert drawn() == "everybody"
    assert drawn("score>0.1", "frame_key=f") == "frame_key=f, score>0.1"
    assert "say nothing about others" not in capsys.readouterr().err
    assert drawn("gender=male") == "gender=male"
    assert "because gender may change with a decision" in capsys.readouterr().err
    assert drawn("smolvlm_gender=male") == "smolvlm_gender=male"
    assert "because smolvlm_gender may change with a decision or an answer" in capsys.readouterr().err
    assert len(set(names)) == 5


def test_an_audit_confirms_what_was_left_as_it_was(review: Review, capsys: pytest.CaptureFixture[str]):
    review.export("--purpose", "audit", "--limit", "2")
    # Nobody has saved the file.
    assert review.take_back() == []
    review.change(lambda project: project["_via_settings"]["ui"].update(leftsidebar_width=20))
    exported = Exported.read(ObjectStore(str(review.to)))
    drawn = {p.bbox for f in exported.frames for p in f.persons if p.sampling == "random"}
    found = review.take_back()
    assert f"{len(found)} values of persons drawn at random are confirmed" in capsys.readouterr().out
    names = exported.schema_of_attributes.names
    assert Counter((d.frame_key, d.bbox) for d in found) == Counter(
        {(f.frame_key, p.bbox): len(names) for f in exported.frames for p in f.persons if p.probability}
    )
    assert len(found) == 2 * len(names)
    assert {d.bbox for d in found} == drawn
    assert {(d.kind, d.sampling, d.probability, d.value == d.replaces) for d in found} == {
        ("value", "random", 0.5, True)
    }
    assert review.take_back() == []


def test_an_audit_counts_changes_and_persons_without_answers(review: Review):
    nobody = Found(FAR, score=0.4, answers={"smolvlm": Annotation("invalid")})
    man = Found(LEFT, answers={"smolvlm": said({"gender": 0.25}, gender="male")})
    write_output(ObjectStore(str(review.output)), {"a": {"f": [man, nobody], "g": []}}, review.settings)
    review.run("consolidate")
    review.export("--purpose", "audit", "--limit", "2")
    review.change(lambda project: said_in(project, "f", 0).update(gender="female"))
    found = review.take_back()
    assert {round(d.bbox[0], 3) for d in found} == {LEFT[0]}
    changed = [(d.attribute, d.value, d.replaces) for d in found if d.value != d.replaces]
    assert changed == [("gender", "female", "male")]
    assert {d.sampling for d in found} == {"random"}
    # A later decision is not taken back by the same file.
    cap = next(d for d in found if d.attribute == "cap")
    later = cap.model_copy(
        update={
            "decision_id": "0" * 32,
            "value": not cap.value,
            "sampling": "need",
            "probability": None,
            "draw": None,
        }
    )
    append(ObjectStore(str(review.output)), [later])
    assert [d.attribute for d in review.take_back()] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--select", "colour=red"], "no column colour"),
        (["--select", "gender"], "write it as column=value"),
        (["--select", "gender_confidence<high"], "Could not convert"),
        (["--select", "gender=unknown"], "there is no such person"),
    ],
)
def test_a_wrong_condition_is_explained(
    review: Review, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    review.run("review", "export", "--to", review.to, *options, expect=2)
    assert message in capsys.readouterr().err


def test_a_frame_that_is_gone_is_left_out_and_said(review: Review, capsys: pytest.CaptureFixture[str]):
    (review.source / "a.tar").unlink()
    review.run("review", "export", "--to", review.to, expect=1)
    assert "frames are left out" in capsys.readouterr().err
