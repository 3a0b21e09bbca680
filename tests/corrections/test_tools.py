"""Every tool: an export comes back without a correction, and each single change as that correction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.corrections.decision import Decision
from jobs.exchange.exported import Exported, ExportedPerson
from jobs.exchange.importing import compare
from jobs.exchange.tools import TOOLS
from tests.corrections.test_review import FAR, LEFT, Review
from tests.support.exchange import export_of, read_back, saved, schemas, submitted, with_persons

NEW = (0.7, 0.2, 0.8, 0.8)


def decided(exported: Exported, changed: Exported, files: str) -> list[Decision]:
    found = compare(exported, read_back(exported, saved(changed, files)), "ann", {})
    assert found.problems == []
    assert found.counts["frames"] == 1
    return found.decisions


def changed_one(data: st.DataObject, exported: Exported, kind: str) -> tuple[Exported, set[tuple[Any, ...]]]:
    """Return an export with one change, and what is then decided: kind, box, attribute and value."""
    persons = list(exported.frames[0].persons)
    number = data.draw(st.integers(0, len(persons) - 1))
    one = persons[number]
    if kind == "deleted":
        del persons[number]
        return with_persons(exported, persons), {("not_a_person", one.bbox, None, None)}
    if kind == "new":
        persons.append(one.model_copy(update={"person_id": "", "bbox": NEW, "box": NEW}))
        said = {("value", NEW, name, value) for name, value in one.values.items() if value is not None}
        return with_persons(exported, persons), {("missed_person", NEW, None, None), *said}
    expected: set[tuple[Any, ...]] = set()
    update: dict[str, Any] = {"person_id": ""}
    if kind == "moved":
        update = {"box": (one.box[0], 0.2, one.box[2], 0.8)}
        expected = {("box", one.bbox, None, None)}
    elif kind == "value":
        attribute = data.draw(st.sampled_from(list(exported.schema_of_attributes)))
        before = one.values[attribute.name]
        value = data.draw(st.sampled_from([v for v in (*attribute.values, None) if v != before] or [before]))
        update = {"values": one.values | {attribute.name: value}}
        expected = {("value", one.bbox, attribute.name, value)} if value != before else set()
    persons[number] = one.model_copy(update=update)
    return with_persons(exported, persons), expected


@pytest.mark.parametrize(
    ("tool", "files"), [("via", "via-"), ("via", "via3-"), *((tool, "") for tool in TOOLS if tool != "via")]
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_single_change_comes_back_alone(tool: str, files: str, data: st.DataObject):
    exported = export_of(tool, data.draw(schemas), data.draw(st.sampled_from([1, 2, 300])))
    assert decided(exported, exported, files) == []
    kind = data.draw(st.sampled_from(["value", "moved", "deleted", "new", "without its id"]))
    changed, expected = changed_one(data, exported, kind)
    found = decided(exported, changed, files)
    boxes = {NEW: NEW} | {person.bbox: person.bbox for person in exported.frames[0].persons}
    near = {d.bbox: min(boxes, key=lambda box: abs(box[0] - d.bbox[0])) for d in found}
    for decision in found:
        assert decision.bbox == pytest.approx(near[decision.bbox], abs=1e-3)
    assert {(d.kind, near[d.bbox], d.attribute, d.value) for d in found} == expected
    assert len(found) == len(expected)
    for decision in found:
        if decision.kind == "box":
            assert decision.new_bbox == pytest.approx(
                (decision.bbox[0], 0.2, decision.bbox[2], 0.8), abs=1e-3
            )
        if decision.kind == "value" and decision.bbox in {p.bbox for p in exported.frames[0].persons}:
            (person,) = (p for p in exported.frames[0].persons if p.bbox == decision.bbox)
            assert decision.replaces == person.values[str(decision.attribute)]


@pytest.fixture
def review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Review:
    return Review(tmp_path, monkeypatch)


def change_cvat(folder: Path) -> None:
    tree = ET.parse(folder / "cvat-0001.xml")
    first = tree.getroot().find("image/box/attribute[@name='gender']")
    assert first is not None
    first.text = "female"
    tree.write(folder / "annotations.xml", encoding="utf-8")


def change_coco(folder: Path) -> None:
    content = json.loads((folder / "coco.json").read_text())
    content["annotations"][0]["attributes"]["gender"] = "female"
    (folder / "instances_default.json").write_text(json.dumps(content))


def say(task: dict[str, Any], region: int, name: str, value: str) -> None:
    for item in task["annotations"][0]["result"]:
        if item["id"] == f"r{region}" and item["from_name"] == name:
            item["value"]["choices"] = [value]


def change_labelstudio(folder: Path) -> None:
    content = json.loads(submitted((folder / "labelstudio-0001.json").read_bytes()))
    say(content[0], 0, "gender", "female")
    (folder / "project-1-at-2026-01-02.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("tool", "change"),
    [("cvat", change_cvat), ("coco", change_coco), ("labelstudio", change_labelstudio)],
)
def test_a_file_that_the_tool_saves_beside_the_exported_one_is_taken_back(
    review: Review, tool: str, change: Any, capsys: pytest.CaptureFixture[str]
):
    review.run("review", "export", "--format", tool, "--to", review.to)
    assert review.take_back() == []
    change(review.to)
    capsys.readouterr()
    (decision,) = review.take_back()
    said = capsys.readouterr()
    assert "1 new decision of ann about 4 persons in 2 frames" in said.out
    assert said.err == ""
    assert (decision.kind, decision.attribute, decision.value, decision.replaces) == (
        "value", "gender", "female", "male",
    )  # fmt: skip
    assert (decision.tool, decision.reviewer) == (tool, "ann")
    assert review.rows("gender, gender_source")[0] == ("female", "human")
    assert review.take_back() == []


@pytest.mark.parametrize("tool", ["cvat", "coco", "labelstudio"])
def test_a_file_of_another_tool_is_explained(review: Review, tool: str, capsys: pytest.CaptureFixture[str]):
    review.run("review", "export", "--format", tool, "--to", review.to)
    name = {"cvat": "a.xml", "coco": "a.json", "labelstudio": "a.json"}[tool]
    (review.to / name).write_text('[{"image": "x"}]' if name.endswith("json") else "<a><track/></a>")
    review.run("review", "import", "--from", review.to, "--reviewer", "ann", expect=2)
    assert f"{name}: not " in capsys.readouterr().err


def test_tasks_that_nobody_submitted_say_nothing(review: Review, capsys: pytest.CaptureFixture[str]):
    review.run("review", "export", "--format", "labelstudio", "--to", review.to)
    assert review.take_back() == []
    assert "in none of the files, or not reviewed yet: 2 exported frames" in capsys.readouterr().out


def test_each_reviewer_of_label_studio_decides_and_the_newest_result_of_each_counts(review: Review):
    def result(number: int, by: Any, time: str, gender: str) -> dict[str, Any]:
        tasks = submitted(original, id=number, completed_by=by, updated_at=time)
        (task, _) = json.loads(tasks)
        say(task, 0, "gender", gender)
        return task

    def write(name: str, *tasks: dict[str, Any]) -> None:
        annotations = [task["annotations"][0] for task in tasks]
        (review.to / name).write_text(json.dumps([tasks[0] | {"annotations": annotations}]))

    review.run("review", "export", "--format", "labelstudio", "--to", review.to)
    original = (review.to / "labelstudio-0001.json").read_bytes()
    bob = {"id": 2, "email": "bob@shop.example"}
    early = result(1, 1, "2026-01-01T00:00:00Z", "female")
    skipped = result(3, 3, "2026-03-01T00:00:00Z", "female")
    skipped["annotations"][0]["was_cancelled"] = True
    write("first.json", early, result(2, bob, "2026-02-01T00:00:00Z", "unknown"), skipped)
    write("second.json", result(1, 1, "2026-01-01T01:00:00Z", "male"))
    (decision,) = review.take_back()
    assert (decision.reviewer, decision.value) == ("ann/bob@shop.example", "unknown")
    assert decision.decided_at.isoformat() == "2026-02-01T00:00:00+00:00"
    assert review.take_back() == []


def test_a_turned_box_is_the_rectangle_around_it(review: Review):
    review.run("review", "export", "--format", "cvat", "--to", review.to)
    tree = ET.parse(review.to / "cvat-0001.xml")
    box = tree.getroot().find("image/box")
    assert box is not None
    box.set("rotation", "90")
    tree.write(review.to / "annotations.xml")
    (decision,) = review.take_back()
    # 200 by 400 pixels around (300, 300), in a frame of 2000 by 1000.
    assert decision.new_bbox == pytest.approx((0.05, 0.2, 0.25, 0.4), abs=1e-4)


def test_a_missed_person_is_exported_again_until_a_detection_finds_them(review: Review):
    def draw(project: dict[str, Any]) -> None:
        shape = {"name": "rect", "x": 1200, "y": 200, "width": 200, "height": 700}
        image = project["_via_img_metadata"][project["_via_image_id_list"][0]]
        image["regions"].append({"shape_attributes": shape, "region_attributes": {"gender": "female"}})

    def persons() -> list[ExportedPerson]:
        exported = Exported.model_validate_json((review.to / "exported.json").read_bytes())
        return list(exported.frames[0].persons)

    review.export()
    review.change(draw)
    assert {decision.kind for decision in review.take_back()} == {"missed_person", "value"}
    review.export()
    missed = persons()[-1]
    assert missed.person_id == "a/f/missed-0"
    assert missed.box == pytest.approx(FAR)
    assert missed.values["gender"] == "female"
    assert review.take_back() == []

    def correct(project: dict[str, Any]) -> None:
        image = project["_via_img_metadata"][project["_via_image_id_list"][0]]
        image["regions"][-1]["region_attributes"]["gender"] = "unknown"
        image["regions"][-1]["shape_attributes"]["width"] = 100

    review.change(correct)
    assert {decision.kind for decision in review.take_back()} == {"box", "value"}
    review.export()
    assert persons()[-1].values["gender"] == "unknown"
    assert persons()[-1].box == pytest.approx((0.6, 0.2, 0.65, 0.9))
    review.write(LEFT, (0.6, 0.2, 0.66, 0.9))
    review.run("consolidate")
    review.export()
    assert [person.person_id for person in persons()] == ["a/f/0", "a/f/1"]


def test_attributes_that_a_project_of_via_3_lacks_are_left_alone(
    review: Review, capsys: pytest.CaptureFixture[str]
):
    """The form is that of VIA 3.0.13: `tests/interop/test_via.py` has it written by VIA itself."""
    review.export()
    shapes = {"1": [2, 200, 100, 200, 400], "2": [7, 300, 100, 500, 100, 500, 500], "3": [3, 1500, 500, 100]}
    metadata = {
        "1_a": {"vid": "1", "flg": 0, "z": [], "xy": shapes["1"], "av": {"1": "female", "2": "a/f/0"}},
        "1_b": {
            "vid": "1",
            "flg": 0,
            "z": [],
            "xy": shapes["2"],
            "av": {"1": "male", "2": "a/f/1", "3": "yes"},
        },
        "1_c": {"vid": "1", "flg": 0, "z": [], "xy": shapes["3"], "av": {}},
        "1_d": {"vid": "1", "flg": 0, "z": [], "xy": [], "av": {}},
    }
    names = {"1": "gender", "2": "person_id", "3": "not_a_person"}
    project = {
        "project": {},
        "config": {},
        "attribute": {number: {"aname": name} for number, name in names.items()},
        "file": {"1": {"fid": "1", "fname": "frames/a.f.jpg"}},
        "metadata": metadata,
        "view": {"1": {"fid_list": ["1"]}},
    }
    (review.to / "via_project.json").write_text(json.dumps(project))
    found = review.take_back(expect=1)
    assert [d.bbox for d in found if d.kind == "missed_person"] == [pytest.approx((0.7, 0.4, 0.8, 0.6))]
    assert [d.bbox for d in found if d.kind == "not_a_person"] == [pytest.approx((0.15, 0.1, 0.25, 0.5))]
    assert [(d.attribute, d.value) for d in found if d.kind == "value"] == [("gender", "female")]
    said = capsys.readouterr().err
    assert said.count("via_project.json: it lacks age_group, exact_age, glasses") == 1
    assert "open via3-0001.json instead" in said


def test_what_was_saved_is_set_aside_by_the_next_export(review: Review, capsys: pytest.CaptureFixture[str]):
    review.run("review", "export", "--format", "coco", "--to", review.to)
    change_coco(review.to)
    review.export()
    said = capsys.readouterr().err
    assert "an earlier export's file that was saved is now" in said
    assert sorted(path.name for path in review.to.glob("*.json")) == [
        "exported.json", "via-0001.json", "via3-0001.json",
    ]  # fmt: skip
    assert review.take_back() == []
    (aside,) = review.to.glob("earlier-*")
    review.run("review", "import", "--from", aside, "--reviewer", "ann")
    assert [decision.value for decision in review.decisions().values()] == ["female"]


def test_an_unknown_format_is_explained(review: Review, capsys: pytest.CaptureFixture[str]):
    review.export()
    exported = json.loads((review.to / "exported.json").read_text())
    (review.to / "exported.json").write_text(json.dumps(exported | {"format": "later"}))
    review.run("review", "import", "--from", review.to, "--reviewer", "ann", expect=2)
    assert "is of the format later, which this version doesn't know" in capsys.readouterr().err


def test_instances_without_attributes_say_nothing_about_values(review: Review):
    review.run("review", "export", "--format", "coco", "--to", review.to)
    content = json.loads((review.to / "coco.json").read_text())
    for annotation in content["annotations"]:
        del annotation["attributes"]
    content["annotations"][0]["bbox"][0] += 10
    (review.to / "saved.json").write_text(json.dumps(content))
    (decision,) = review.take_back()
    assert decision.kind == "box"
    assert decision.bbox == pytest.approx(LEFT)
    assert decision.new_bbox == pytest.approx((0.105, 0.1, 0.205, 0.5))
