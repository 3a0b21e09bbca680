"""`shopframe export`: what people decided is in the data set, and trainers that others wrote take it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from actors.corrections.decision import MISSED, Decision
from actors.corrections.decision_log import append
from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from jobs.settings import Settings
from tests.support import bad_inputs as bad
from tests.support.committed import SCHEMA, Found, write_output
from tests.support.in_process import run_in_process

LEFT, RIGHT = (0.1, 0.2, 0.3, 0.8), (0.6, 0.2, 0.8, 0.8)
DAYS, FRAMES_A_DAY = 6, 2
WIDTH_PX, HEIGHT_PX = 160, 80
COLOURS = {"male": (220, 40, 40), "female": (40, 40, 220)}
"""Blue and red, in OpenCV's order: what a classifier has to tell apart."""


def picture() -> bytes:
    """Return a grey frame with a blue person on the left and a red one on the right."""
    pixels = np.full((HEIGHT_PX, WIDTH_PX, 3), 128, np.uint8)
    for (x1, y1, x2, y2), colour in zip((LEFT, RIGHT), COLOURS.values(), strict=True):
        pixels[round(y1 * HEIGHT_PX) : round(y2 * HEIGHT_PX), round(x1 * WIDTH_PX) : round(x2 * WIDTH_PX)] = (
            colour
        )
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def answered(**values: Any) -> dict[str, Annotation]:
    said = {attribute.name: attribute.values[0] for attribute in SCHEMA} | values
    return {"smolvlm": Annotation("ok", values=said, confidence={"gender": 0.75}, distribution={})}


class Shop:
    """An output with two persons in each of two frames a day, and what people decided about them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.output, self.to, self._monkeypatch = folder / "out", folder / "data", monkeypatch
        source = folder / "in"
        source.mkdir()
        start = datetime(2024, 5, 1, 9, tzinfo=UTC)
        times, shards = {}, {}
        for day in range(DAYS):
            keys = [f"d{day}f{number}" for number in range(FRAMES_A_DAY)]
            times |= {key: start + timedelta(days=day, seconds=n) for n, key in enumerate(keys)}
            (source / f"s{day}.tar").write_bytes(bad.tar({f"{key}.jpg": picture() for key in keys}))
            persons = [
                Found(LEFT, score=0.9, answers=answered(gender="male")),
                Found(RIGHT, score=0.8, answers=answered(gender="female", exact_age=None)),
                Found((0.4, 0.0, 0.45, 0.1), score=0.7, kept=False),
            ]
            shards[f"s{day}"] = dict.fromkeys(keys, persons)
        settings = Settings.model_validate(
            {"input": {"uri": str(source)}, "output": {"uri": str(self.output)}}
        )
        self.store = ObjectStore(str(self.output))
        cameras = dict.fromkeys(times, "till")
        write_output(self.store, shards, settings, cameras=cameras, times=times)
        self.run("consolidate")

    def run(self, *arguments: object, expect: int = 0) -> None:
        assert run_in_process(self._monkeypatch, *arguments, "--output", self.output) == expect

    def export(self, kind: str, *options: object, expect: int = 0) -> None:
        self.run("export", "--format", kind, "--to", self.to, *options, expect=expect)

    def decide(self, kind: str, frame: str = "d0f0", bbox: Any = LEFT, **content: Any) -> None:
        box = tuple(map(float, np.array(bbox, np.float32)))
        given = {"shard_id": f"s{frame[1]}", "frame_key": frame, "bbox": box, "detection": "001-00000000"}
        append(
            self.store,
            [Decision.model_validate({"reviewer": "ann", "tool": "via", "kind": kind, **given, **content})],
        )

    def facts(self) -> dict[str, Any]:
        return json.loads((self.to / "dataset.json").read_text())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(tmp_path, monkeypatch)


def boxes_of(shop: Shop, frame: str) -> list[list[float]]:
    (label,) = (shop.to / "labels").glob(f"*/s{frame[1]}.{frame}.txt")
    return [[float(number) for number in line.split()] for line in label.read_text().splitlines()]


def test_decisions_are_in_the_boxes(shop: Shop):
    shop.decide("not_a_person")
    shop.decide("box", bbox=RIGHT, new_bbox=(0.5, 0.2, 0.9, 0.8))
    shop.decide("missed_person", bbox=(0.4, 0.5, 0.5, 0.9), detection=MISSED)
    shop.decide("not_a_person", "d1f0")
    shop.decide("not_a_person", "d1f0", bbox=RIGHT)
    shop.run("consolidate")
    shop.export("yolo")
    assert boxes_of(shop, "d0f0") == [[0, 0.7, 0.5, 0.4, 0.6], [0, 0.45, 0.7, 0.1, 0.4]]
    assert boxes_of(shop, "d1f0") == []
    assert boxes_of(shop, "d1f1") == [[0, 0.2, 0.5, 0.2, 0.6], [0, 0.7, 0.5, 0.2, 0.6]]
    facts = shop.facts()
    assert (facts["not_persons"], facts["corrected_boxes"]) == (3, 2)
    assert sum(split["persons"] for split in facts["splits"].values()) == 2 * DAYS * FRAMES_A_DAY - 2
    card = (shop.to / "README.md").read_text()
    assert "People said of 3 detections that they show no person" in card
    assert (
        f"{DAYS * FRAMES_A_DAY} other detections in these frames are outside the region of interest" in card
    )
    assert "smolvlm: m, version 1, prompt SHA-256 `x`" in card
    described = yaml.safe_load((shop.to / "data.yaml").read_text())
    assert described["names"] == {0: "person"}
    for split in ("train", "val", "test"):
        images = {path.stem for path in (shop.to / described[split]).iterdir()}
        assert images == {path.stem for path in (shop.to / "labels" / split).iterdir()}
        assert len(images) == facts["splits"][split]["frames"] > 0


def test_instances_have_final_values_and_sources(shop: Shop):
    from pycocotools.coco import COCO

    shop.decide("value", attribute="gender", value="unknown", replaces="male")
    shop.run("consolidate")
    shop.export("coco", "--select", "gender_source=human", "--splits", "train=1")
    coco = COCO(str(shop.to / "annotations" / "instances_train.json"))
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (shop.to / "images" / "train" / image["file_name"]).exists()
    assert (image["camera"], image["date_captured"]) == ("till", "2024-05-01T09:00:00+00:00")
    left, right = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
    assert (left["attributes"]["gender"], left["sources"]["gender"]) == ("unknown", "human")
    assert (right["attributes"]["exact_age"], right["sources"]["gender"]) == (None, "smolvlm")
    # By the size of the frame in the table.
    assert left["bbox"] == pytest.approx([200, 200, 400, 600], abs=0.01)


def samples(content: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}
    keys = sorted({name.partition(".")[0] for name in files})
    return [(files[f"{key}.jpg"], json.loads(files[f"{key}.json"])) for key in keys]


def test_crops_of_chosen_persons_are_cut_by_the_corrected_box(shop: Shop):
    shop.decide("box", new_bbox=(0.1, 0.2, 0.2, 0.8))
    shop.decide("value", attribute="glasses", value=False, replaces=True)
    shop.run("consolidate")
    shop.export("webdataset", "--select", "glasses=false", "--splits", "train=1")
    ((crop, said),) = samples((shop.to / "train-000000.tar").read_bytes())
    assert (said["person_id"], said["glasses"], said["glasses_source"]) == ("s0/d0f0/0", False, "human")
    assert (said["gender_confidence"], said["captured_at"]) == (0.75, "2024-05-01T09:00:00+00:00")
    height, width = cv2.imdecode(np.frombuffer(crop, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    # 16 to 32 and 16 to 64 pixels with a margin of a tenth on each side, rounded outwards.
    assert (width, height) == (20, 58)
    weights = shop.facts()["attributes"]["glasses"]
    assert weights["class_weights"] == {"false": 1.0}


def test_the_same_output_gives_the_same_data_set_at_any_fsspec_uri(shop: Shop):
    shop.export("webdataset")
    shop.run("export", "--format", "webdataset", "--to", "memory://shop/data")
    memory = ObjectStore("memory://shop/data")
    names = sorted(info.path for info in memory.list())
    assert names == sorted(str(path.relative_to(shop.to)) for path in shop.to.rglob("*") if path.is_file())
    assert {name: memory.read(name) for name in names} == {n: (shop.to / n).read_bytes() for n in names}


def test_weights_make_rare_values_count_as_much_as_frequent_ones(shop: Shop):
    for frame in ("d0f0", "d1f0", "d2f0"):
        shop.decide("value", frame, attribute="gender", value="unknown", replaces="male")
    shop.run("consolidate")
    shop.export("hf", "--splits", "train=1")
    gender = shop.facts()["attributes"]["gender"]
    assert gender["counts"]["train"] == {"female": 12, "male": 9, "unknown": 3}
    assert gender["class_weights"] == pytest.approx({"female": 24 / 36, "male": 24 / 27, "unknown": 24 / 9})
    assert gender["sources"] == {"smolvlm": 21, "human": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--select", "colour=red"], "no column colour"),
        (["--select", "gender=unknown"], "there is no such person"),
        (["--select", "exact_age<old"], "Could not convert"),
        (["--splits", "train=2,x=1"], "--splits train=2,x=1: write it as"),
    ],
)
def test_a_wrong_option_is_explained(
    shop: Shop, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    shop.export("hf", *options, expect=2)
    assert message in capsys.readouterr().err
    assert not shop.to.exists()


def test_a_folder_with_something_in_it_is_left_alone(shop: Shop, capsys: pytest.CaptureFixture[str]):
    shop.to.mkdir()
    (shop.to / "mine.txt").write_text("mine")
    shop.export("hf", expect=2)
    assert "it is not empty" in capsys.readouterr().err
    assert [path.name for path in shop.to.iterdir()] == ["mine.txt"]


def test_frames_that_are_gone_are_said(shop: Shop, capsys: pytest.CaptureFixture[str]):
    (shop.output.parent / "in" / "s3.tar").unlink()
    shop.export("hf", expect=1)
    assert "shard s3: frames are left out" in capsys.readouterr().err
    assert sum(split["persons"] for split in shop.facts()["splits"].values()) == 2 * (DAYS - 1) * FRAMES_A_DAY


@pytest.mark.slow
def test_a_classifier_learns_from_webdataset(shop: Shop):
    import torch
    import webdataset

    shop.export("webdataset")

    def batch(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        (path,) = shop.to.glob(f"{split}-*.tar")
        read = webdataset.WebDataset(str(path), shardshuffle=False).decode("rgb").to_tuple("jpg", "json")
        crops, targets = [], []
        for crop, said in read:
            crops.append(cv2.resize(crop, (8, 16)))
            targets.append(["male", "female"].index(said["gender"]))
        return torch.tensor(np.array(crops)).flatten(1), torch.tensor(targets)

    torch.manual_seed(0)
    crops, targets = batch("train")
    model = torch.nn.Linear(crops.shape[1], 2)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(crops), targets).backward()
        optimizer.step()
    for split in ("val", "test"):
        crops, targets = batch(split)
        assert len(targets) == 2 * FRAMES_A_DAY * shop.facts()["splits"][split]["groups"]
        assert model(crops).argmax(1).tolist() == targets.tolist()


@pytest.mark.slow
def test_ultralytics_trains_from_yolo(shop: Shop, tmp_path: Path):
    shop.decide("not_a_person", "d0f0")
    shop.run("consolidate")
    shop.export("yolo", "--splits", "train=0.5,val=0.5")
    # A process of its own, since ultralytics changes settings of torch and OpenCV for all.
    code = f"""
import json
from ultralytics import YOLO

model = YOLO("yolov8n.yaml")
data, project = {str(shop.to / "data.yaml")!r}, {str(tmp_path / "runs")!r}
model.train(data=data, epochs=1, imgsz=64, batch=4, device="cpu", workers=0, plots=False, project=project)
found = {{}}
for name, loader in (("train", model.trainer.train_loader), ("val", model.trainer.test_loader)):
    labels = loader.dataset.labels
    found[name] = [len(labels), sum(len(label["cls"]) for label in labels)]
found["losses"] = [float(loss) for loss in model.trainer.tloss.values()]
print("RESULT", json.dumps(found))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    found = json.loads(line.removeprefix("RESULT"))
    splits = shop.facts()["splits"]
    for name in ("train", "val"):
        assert found[name] == [splits[name]["frames"], splits[name]["persons"]]
    assert all(0 < loss < float("inf") for loss in found["losses"])
