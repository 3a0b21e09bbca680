"""Readers that others wrote read what `shopframe review export` writes, and what they save comes back."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datumaro.components.dataset import Dataset
from label_studio_sdk.label_interface import LabelInterface
from pycocotools.coco import COCO

TakeBack = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def tasks(work: Path) -> list[dict[str, Any]]:
    return json.loads((work / "labelstudio" / "labelstudio-0001.json").read_text())


def test_label_studio_accepts_tasks_and_predictions(work: Path, tasks: list[dict[str, Any]]):
    interface = LabelInterface((work / "labelstudio" / "labelstudio-config.xml").read_text())
    assert len(tasks) == 2
    for task in tasks:
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        assert interface.validate_task({"data": task["data"]})


def test_label_studio_refuses_a_value_that_the_configuration_lacks(work: Path, tasks: list[dict[str, Any]]):
    interface = LabelInterface((work / "labelstudio" / "labelstudio-config.xml").read_text())
    (prediction,) = tasks[0]["predictions"]
    mood = next(item for item in prediction["result"] if item["from_name"] == "mood")
    mood["value"]["choices"] = ["sad"]
    assert interface.validate_prediction(prediction, return_errors=True)


def test_a_submitted_annotation_is_valid_and_comes_back(
    work: Path, tasks: list[dict[str, Any]], take_back: TakeBack
):
    interface = LabelInterface((work / "labelstudio" / "labelstudio-config.xml").read_text())
    (prediction,) = tasks[0]["predictions"]
    mood = next(item for item in prediction["result"] if item["from_name"] == "mood")
    mood["value"]["choices"] = ["日本語"]
    annotation = {"result": prediction["result"], "completed_by": 1, "updated_at": "2026-01-01T00:00:00Z"}
    assert interface.validate_annotation(annotation)
    saved = [{"id": 1, "data": tasks[0]["data"], "annotations": [annotation]}]
    (work / "labelstudio" / "project-1.json").write_text(json.dumps(saved))
    (decision,) = take_back("labelstudio")
    assert (decision["attribute"], decision["value"]) == ("mood", "日本語")


def test_pycocotools_reads_instances(work: Path):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(work / "coco" / "coco.json"))
    (category,) = coco.getCatIds(catNms=["person"])
    assert len(coco.getImgIds(catIds=[category])) == 2
    first = coco.loadAnns(coco.getAnnIds(imgIds=[1]))[0]
    assert first["bbox"] == pytest.approx([200, 100, 200, 400], abs=0.01)
    said = first["attributes"]
    assert (said["person_id"], said["steps"], said["glasses"]) == ("a/f/0", -5, True)


@pytest.fixture(params=["coco", "cvat"])
def dataset(request: pytest.FixtureRequest, work: Path, tmp_path: Path) -> tuple[str, Dataset]:
    """Return an export as datumaro reads it."""
    folder = tmp_path / "datumaro"
    if request.param == "coco":
        shutil.copytree(work / "coco" / "frames", folder / "images" / "review")
        (folder / "annotations").mkdir()
        shutil.copy(work / "coco" / "coco.json", folder / "annotations" / "instances_review.json")
        return "coco", Dataset.import_from(str(folder), "coco_instances")
    shutil.copytree(work / "cvat" / "frames", folder / "images")
    shutil.copy(work / "cvat" / "cvat-0001.xml", folder / "annotations.xml")
    return "cvat", Dataset.import_from(str(folder), "cvat")


def save(tool: str, dataset: Dataset, work: Path, tmp_path: Path) -> None:
    """Save a data set of datumaro into the folder of the export, in its format."""
    saved = tmp_path / "saved"
    dataset.export(str(saved), "coco_instances" if tool == "coco" else "cvat", save_media=False)
    (file,) = saved.rglob("*.json" if tool == "coco" else "*.xml")
    shutil.copy(file, work / tool / f"saved{file.suffix}")


def test_datumaro_reads_every_person(dataset: tuple[str, Dataset]):
    _, read = dataset
    persons = {box.attributes["person_id"]: box for item in read for box in item.annotations}
    assert sorted(persons) == [f"a/{frame}/{number}" for frame in "fg" for number in range(3)]
    assert persons["a/f/1"].points == pytest.approx([800, 100, 1000, 500], abs=0.01)
    assert persons["a/f/1"].attributes["mood"] == "l'été <b>&amp;"
    assert persons["a/g/0"].attributes["mood"] == "null"


def test_what_datumaro_saves_without_a_change_is_no_decision(
    dataset: tuple[str, Dataset], work: Path, tmp_path: Path, take_back: TakeBack
):
    save(*dataset, work, tmp_path)
    assert take_back(dataset[0]) == []


def test_what_is_changed_in_datumaro_comes_back(
    dataset: tuple[str, Dataset], work: Path, tmp_path: Path, take_back: TakeBack
):
    tool, read = dataset
    for item in read:
        for box in item.annotations:
            if box.attributes["person_id"] == "a/g/2":
                box.attributes["mood"] = "日本語"
        read.put(item)
    save(tool, read, work, tmp_path)
    (decision,) = take_back(tool)
    assert (decision["frame_key"], decision["attribute"]) == ("g", "mood")
    assert (decision["value"], decision["replaces"]) == ("日本語", "l'été <b>&amp;")
