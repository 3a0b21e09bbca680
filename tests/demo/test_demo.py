"""The whole job is compared with the demo's known answers, on stores that its models weren't trained on.

The truth of the scenes contains the box and the attributes of each person. A fault anywhere between the
shard and the consolidated row therefore lowers the accuracy, or makes two ways of annotating the same
frames differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.detect.settings import DetectorSettings, resolve_detector
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from demo.scenes import write_shards
from jobs import cli, command
from jobs.evaluation.comparison import Evaluation
from jobs.evaluation.measures import measure
from jobs.run.demo_models import KNOWN_WEIGHTS, demo_models
from tests.conftest import REPO_ROOT
from tests.support import job, ray_cluster
from tests.support.job import Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

UNSEEN_SEED = 4_000
FRAMES, FRAMES_PER_SHARD = 48, 12

FORMS = ("parquet", "images")
"""Folders with the frames of one shard each in another form. The ids of their shards in an output begin with
these names."""

OTHERWISE = (
    "detector.actors=2",
    "smolvlm.actors=2",
    "smolvlm.batch_size=1",
    "input.key_column=frame_key",
    f"input.frames_per_shard={FRAMES_PER_SHARD // 2}",
)
"""Settings that must not change a row: two actors a stage, one crop at a time, two shards of loose images."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A folder with the demo's models and configuration, and the same frames as shards and in other forms.

    Their truth has no shard ids.
    """
    folder = tmp_path_factory.mktemp("store")
    for name in ("conf", "demo"):
        (folder / name).symlink_to(REPO_ROOT / name)
    scenes = folder / "out/demo/scenes"
    write_shards(scenes, UNSEEN_SEED, FRAMES, FRAMES_PER_SHARD)
    truth = pq.read_table(scenes / "truth.parquet").drop_columns(["shard_id"])
    pq.write_table(truth, scenes / "truth.parquet")
    images, parquet = folder / "other-forms/images", folder / "other-forms/parquet"
    parquet.mkdir(parents=True)
    for form, shard_id in zip(FORMS, of_other_forms(folder), strict=True):
        path = scenes / f"shards/{shard_id}.tar"
        extracted = images if form == "images" else folder / "extracted"
        with tarfile.open(path) as tar:
            tar.extractall(extracted, filter="data")
        if form == "parquet":
            frames = [frame_of(extracted / name) for name in names_in(path) if name.endswith(".jpg")]
            pq.write_table(pa.Table.from_pylist(frames), parquet / f"{shard_id}.parquet")
    return folder


@pytest.fixture(scope="module")
def base(store) -> tuple[Path, str]:
    """The output of the demo's own command, in a process and on a Ray of its own, and what it said."""
    command = [sys.executable, "-m", "jobs.cli", "annotate", "--config", "conf/demo.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT)}
    done = subprocess.run(command, cwd=store, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return store / "out/demo/annotated", done.stdout


@pytest.fixture(scope="module")
def other(store) -> Path:
    """The output of a run on half of the frames in other forms, with other settings."""
    output = store / "out-of-other-forms"
    overrides = (f"ray.address={ray_cluster.address()}", *OTHERWISE)
    options = [part for override in overrides for part in ("--set", override)]
    job.annotate(store / "other-forms", output, "--config", "conf/demo.yaml", *options)
    return output


def of_other_forms(store: Path) -> list[str]:
    """Return the id of the shard of which each other form has the frames."""
    return sorted(path.stem for path in (store / "out/demo/scenes/shards").iterdir())[: len(FORMS)]


def names_in(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def frame_of(image: Path) -> dict[str, object]:
    facts = json.loads(image.with_suffix(".json").read_text())
    return {"frame_key": image.stem, "image": image.read_bytes(), **facts}


def measured(output: Path, truth: Path) -> Evaluation:
    place = ObjectStore(str(output), StorageSettings())
    report = ObjectStore(str(output / "evaluation"), StorageSettings())
    return measure(place, str(truth), report, complete=False)[0]


def assert_right(found: Evaluation) -> None:
    assert (found.frames.compared, found.frames.failed, found.frames.not_in_output) == (FRAMES, 0, 0)
    assert found.persons.truth > 80
    assert found.detection["all"].ap50 >= 0.90
    smolvlm = found.annotators["smolvlm"]
    assert set(smolvlm.outcomes) == {"ok"}
    attributes = dict(smolvlm.attributes)
    assert attributes.pop("exact_age").numbers.mean_absolute_error <= 6
    accuracy = {name: attribute.accuracy.share for name, attribute in attributes.items()}
    assert set(accuracy) == set(AttributeSchema(SchemaSettings()).names) - {"exact_age"}
    assert min(accuracy.values()) >= 0.85, accuracy
    assert np.mean(list(accuracy.values())) >= 0.93, accuracy


def rows_of(output: Path, shards: str) -> dict[tuple[str, int], dict[str, object]]:
    """Return each consolidated row by frame and person, without shard ids, which depend on the format.

    Rows of shards whose ids begin otherwise than with `shards` are left out.
    """
    rows = [row for row in job.consolidated(output) if row.pop("shard_id").startswith(shards)]
    assert len({(row["frame_key"], row["person_index"]) for row in rows}) == len(rows)
    return {(row["frame_key"], row["person_index"]): row for row in rows}


def verdicts_of(output: Path, shards: str) -> list[tuple[object, ...]]:
    """Return the frame, person, box, score and ROI verdict of every detection in these shards."""
    columns = ("frame_key", "person_index", "bbox", "score", "kept", "drop_reason")
    rows = [row for row in job.table(output, "persons").to_pylist() if row["shard_id"].startswith(shards)]
    return sorted((tuple(row[name] for name in columns) for row in rows), key=lambda row: row[:2])


def test_the_demos_configuration_is_all_that_the_command_needs_to_find_people_and_their_attributes(
    base, store
):
    output, _ = base
    assert_right(measured(output, store / "out/demo/scenes/truth.parquet"))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_frames_give_the_same_rows(base, other, store, form):
    output, _ = base
    shard_id = of_other_forms(store)[FORMS.index(form)]
    assert verdicts_of(other, form) == verdicts_of(output, shard_id)
    expected, found = rows_of(output, shard_id), rows_of(other, form)
    assert len(expected) > 15
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        inexact = {
            name for name in row if name.startswith("smolvlm_confidence_") or name.endswith("_confidence")
        }
        assert len(inexact) == 2 * 11
        assert {n: v for n, v in found[key].items() if n not in inexact} == {
            n: v for n, v in row.items() if n not in inexact
        }
        for name in inexact:
            assert found[key][name] == pytest.approx(row[name], abs=1e-4), (key, name)


def test_the_run_its_record_and_status_say_that_these_are_the_demos_models(base):
    output, printed = base
    said = "demo models (detector, smolvlm)"
    assert said in printed
    models = json.loads((output / "run.json").read_bytes())["models"]
    assert models["demo"] is True
    assert said in models["notice"]
    status = job.shopframe("status", "--output", output, "--json")
    assert json.loads(status.stdout)["models"] == {"demo": True, "notice": models["notice"]}
    assert said in job.shopframe("status", "--output", output).stdout


def test_without_frames_the_demo_says_how_to_draw_them(tmp_path, monkeypatch, capsys):
    codes: list[int] = []
    monkeypatch.setattr(command.os, "_exit", codes.append)
    monkeypatch.chdir(tmp_path)
    cli.main(["annotate", "--config", "demo.yaml"])
    assert codes == [2]
    assert "run `make demo`" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_shipped_model_is_known_as_the_demos():
    listed = dict(line.split()[::-1] for line in KNOWN_WEIGHTS.read_text().splitlines())
    weights = [path for suffix in ("pt", "safetensors") for path in Path("demo/models").rglob(f"*.{suffix}")]
    assert len(weights) == 2
    assert listed == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}


def test_the_demos_models_are_known_anywhere_and_no_others_are(models: Models, tmp_path):
    schema = AttributeSchema(SchemaSettings())

    def found(weights: Path, folder: Path) -> list[str]:
        settings = {"weights": str(weights), "backend": "torch", "cache_dir": models.cache}
        detector = resolve_detector(DetectorSettings.model_validate(settings), StorageSettings())
        return demo_models(detector, resolve_smolvlm(SmolVLMSettings(model=str(folder)), schema))

    shutil.copyfile("demo/models/detector.pt", tmp_path / "yolov8n.pt")
    shutil.copytree("demo/models/smolvlm", tmp_path / "SmolVLM2-500M")
    (tmp_path / "SmolVLM2-500M/notes.txt").write_text("a copy")
    assert found(tmp_path / "yolov8n.pt", tmp_path / "SmolVLM2-500M") == ["detector", "smolvlm"]
    assert found(tmp_path / "yolov8n.pt", models.smolvlm) == ["detector"]
    assert found(models.weights, models.smolvlm) == []
