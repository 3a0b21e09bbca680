"""A vision tower in OpenVINO is used only where its answers agree with torch's, and an output keeps it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.detect.crops import CropSettings
from actors.detect.settings import DetectorSettings, resolve_detector
from actors.errors import ConfigError, WeightsError
from actors.read.listing import list_shards
from actors.read.settings import InputSettings
from actors.smolvlm.guided_engine import GuidedEngine
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from actors.smolvlm.tower_choice import TowerChoice
from actors.smolvlm.vision_tower import VisionTower, export_tower
from actors.storage.model_paths import network_path, network_sha256, tower_choice_path
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from jobs.run import vision_tower
from jobs.run.detector_network import FEWEST_FRAMES
from jobs.run.resolve import resolve
from jobs.run.run_record import read_run
from jobs.run.tower_trial import Candidate, TowerTrial, choose_candidate, try_tower
from jobs.run.vision_tower import choose_tower
from jobs.settings import load_settings
from tests.support import job, without_ray
from tests.support.job import Models
from tests.support.sequences import sequences

SCHEMA = AttributeSchema(SchemaSettings())
CROPS = 20

CHOICE = TowerChoice(
    taken=False,
    network="0" * 64,
    precision="int8",
    arithmetic="float32",
    text_precision="float32",
    crops=64,
    cosine=1.0,
    equal={"gender": 1.0},
    milliseconds=50.0,
    torch_milliseconds=100.0,
    packages={},
)


@dataclass(frozen=True)
class Given:
    """A trial that insists, with the model loaded, the model's tower, and crops."""

    trial: TowerTrial
    engine: GuidedEngine
    tower: tuple[bytes, bytes]
    crops: list[bytes]

    def choose(self, *candidates: Candidate):
        return choose_candidate(self.trial, [("float32", self.engine)], candidates, self.crops)


@pytest.fixture(scope="module")
def given(models: Models, one_torch_thread) -> Given:
    detector = DetectorSettings(weights=str(models.weights), cache_dir=str(models.cache), image_size=320)
    settings = SmolVLMSettings(model=str(models.smolvlm))
    trial = TowerTrial(
        settings,
        resolve_smolvlm(settings, SCHEMA),
        SCHEMA,
        detector,
        resolve_detector(detector, StorageSettings()),
        CropSettings(),
        (),
        InputSettings(),
        StorageSettings(),
        insists=True,
    )
    engine = GuidedEngine(settings, trial.resolved, SCHEMA)
    tower = export_tower(engine.model, trial.resolved.image_size_px)
    return Given(trial, engine, tower, sequences(12).crops[:CROPS])


@pytest.fixture(scope="module")
def spoiled(given: Given) -> tuple[bytes, bytes]:
    """Return the tower with noise in its weights, as large as the weights are."""
    model = GuidedEngine(given.trial.smolvlm, given.trial.resolved, SCHEMA).model
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.model.vision_model.parameters():
            weights.add_(weights.abs().mean() * torch.randn_like(weights))
    return export_tower(model, given.trial.resolved.image_size_px)


def test_a_tower_that_agrees_is_taken(given):
    tried = given.choose(Candidate("float32", "float32", given.tower))
    assert tried.choice.taken, tried.choice.disagreements()
    assert tried.choice.crops == CROPS
    assert tried.choice.cosine > 0.9999
    assert set(tried.choice.equal) == set(SCHEMA.names)
    assert tried.choice.network == network_sha256(given.tower)
    assert tried.files == given.tower


def test_a_spoiled_tower_is_refused(given, spoiled):
    tried = given.choose(Candidate("int8", "float32", spoiled))
    assert not tried.choice.taken
    assert tried.choice.disagreements()[0].startswith("features have a cosine of")
    assert "torch; OpenVINO in int8 was not taken: " in tried.choice.text()


def test_another_precision_takes_the_place_of_a_spoiled_one(given, spoiled):
    tried = given.choose(Candidate("int8", "float32", spoiled), Candidate("float32", "float32", given.tower))
    assert tried.choice.taken
    assert tried.choice.precision == "float32"


def test_the_model_keeps_its_own_tower_after_a_trial(given, spoiled):
    own = given.engine.vision
    given.choose(Candidate("int8", "float32", spoiled))
    assert given.engine.vision == own


def test_input_with_few_people_says_too_little(given):
    with pytest.raises(WeightsError, match=r"only 0 people were found in frames of the input \(at least 16"):
        try_tower(given.trial)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cosine": 0.98}, "features have a cosine of 0.980"),
        ({"equal": {"gender": 1.0, "hood": 0.97}}, "98.5% of the answers are equal"),
        ({"equal": {"gender": 0.96} | {str(n): 1.0 for n in range(9)}}, "96.0% of those to gender are"),
        ({"milliseconds": 96.0}, "it takes 0.96 of torch's time"),
    ],
)
def test_each_bound_is_an_objection(changes, said):
    assert CHOICE.objections() == []
    assert CHOICE.model_copy(update=changes).objections()[0].startswith(said)


def test_the_features_of_a_picture_do_not_depend_on_others(given):
    pictures = given.engine.pictures(given.crops[:3])
    vision = VisionTower(given.tower, "float32", 1)
    together = vision(torch.stack(pictures))
    for picture, features in zip(pictures, together, strict=True):
        assert torch.equal(vision(picture[None])[0], features)


def test_a_text_model_in_bfloat16_reads_the_features_of_a_tower(given):
    resolved = replace(given.trial.resolved, dtype="bfloat16")
    engine = GuidedEngine(given.trial.smolvlm, resolved, SCHEMA)
    engine.vision = VisionTower(given.tower, "float32", 1)
    in_bfloat16 = engine.annotate(given.crops)
    assert [answer.status for answer in in_bfloat16] == ["ok"] * CROPS
    for one, other in zip(in_bfloat16, given.engine.annotate(given.crops), strict=True):
        assert one.values.keys() == other.values.keys()
        assert one.confidence["gender"] == pytest.approx(other.confidence["gender"], abs=0.1)


def choose(models: Models, source: Path, output: Path, wanted: str = "auto", **changes):
    """Choose the tower of an output, and return it with what was said.

    Args:
        models: The models.
        source: The input.
        output: The output.
        wanted: The setting.
        changes: `times`, how many times as large each shard claims to be; `frames_kept`.
    """
    options = [text for text in models.options() if text != "--set"]
    settings = load_settings((), [*options, f"input.uri={source}", f"smolvlm.vision={wanted}"]).settings
    times = changes.get("times", 1)
    listed = list_shards(settings.input, settings.storage)
    shards = [replace(shard, size_bytes=shard.size_bytes * times) for shard in listed]
    terminal = io.StringIO()
    frames_kept = changes.get("frames_kept", 0)
    store = ObjectStore(str(output), settings.storage)
    return choose_tower(
        settings, resolve(settings), store, shards, frames_kept, terminal
    ), terminal.getvalue()


def test_auto_does_not_try_for_few_frames_or_where_many_have_answers(models, tmp_path):
    job.write_shards(tmp_path / "in", "a", frames=2)
    source = tmp_path / "in"
    many = 3 * FEWEST_FRAMES * 100_000 // sum(path.stat().st_size for path in source.iterdir())
    for changes in ({}, {"times": many, "frames_kept": FEWEST_FRAMES}):
        (vlm, choice), said = choose(models, source, tmp_path / "out", **changes)
        assert vlm.tower_sha256 is None
        assert choice is None
        assert said == ""
    assert not (tmp_path / "out").exists()


def test_all_runs_of_an_output_follow_what_it_has_decided(given, models, tmp_path):
    job.write_shards(tmp_path / "in", "a", frames=2)
    source = tmp_path / "in"
    store = ObjectStore(str(tmp_path / "out"))
    (vlm, _), _ = choose(models, source, tmp_path / "out", "torch")
    path = tower_choice_path(vlm.fingerprint[:16])
    store.write(path, CHOICE.model_dump_json().encode())
    many = 3 * FEWEST_FRAMES * 100_000 // sum(path.stat().st_size for path in source.iterdir())
    (chosen, choice), said = choose(models, source, tmp_path / "out", times=many)
    assert (chosen, choice, said) == (vlm, CHOICE, "")

    taken = CHOICE.model_copy(
        update={"taken": True, "network": network_sha256(given.tower), "text_precision": "bfloat16"}
    )
    store.write(path, taken.model_dump_json().encode())
    for suffix, content in zip(("xml", "bin"), given.tower, strict=True):
        store.write(network_path(taken.network, suffix), content)
    for wanted in ("auto", "openvino"):
        (chosen, choice), said = choose(models, source, tmp_path / "out", wanted, frames_kept=FEWEST_FRAMES)
        assert chosen == replace(vlm, tower_sha256=taken.network, dtype="bfloat16")
        assert chosen.fingerprint == vlm.fingerprint
        assert (choice, said) == (taken, "")

    (vlm, _), _ = choose(models, source, tmp_path / "out", "torch")
    assert vlm.tower_sha256 is None


@pytest.mark.parametrize("option", ["engine=generate", "gpus_per_actor=1", "split_image=true"])
def test_openvino_is_for_guided_decoding_on_a_cpu(option):
    with pytest.raises(ConfigError, match="vision openvino is for guided decoding on a CPU"):
        load_settings((), ["smolvlm.vision=openvino", f"smolvlm.{option}"])


@pytest.mark.slow
def test_a_run_makes_the_tower_once_and_keeps_it(models: Models, tmp_path, monkeypatch):
    # Another process would import torch and transformers again, which takes as long as the rest of this test.
    monkeypatch.setattr(vision_tower, "in_own_process", lambda function, argument, _: function(argument))
    job.write_shards(tmp_path / "in", "abc", frames=6)
    source, output = tmp_path / "in", tmp_path / "out"
    options = [*models.options(), "--set", "smolvlm.vision=openvino", "--set", "roi.max_persons=1"]
    said = without_ray.annotate(source, output, *options)
    assert "trying SmolVLM's vision tower in OpenVINO" in said.stderr
    assert "vision tower" in said.stdout
    store = ObjectStore(str(output))
    recorded = read_run(store).models.smolvlm
    assert recorded is not None
    assert recorded.vision is not None
    assert recorded.vision.taken
    assert recorded.tower == recorded.vision.network
    weights = output / network_path(recorded.tower, "bin")
    before = weights.read_bytes()
    status = json.loads(without_ray.command("status", "--output", output, "--json").stdout)
    assert status["smolvlm"] == {"tower": recorded.tower, "vision": recorded.vision.text()}
    assert status["annotators"]["smolvlm"]["ok"] == status["persons"]["kept"] > 0
    answers = job.table(output, "annotations/smolvlm")

    again = without_ray.annotate(source, output, *options, "--force")
    assert "trying SmolVLM" not in again.stderr
    assert read_run(store).models.smolvlm == recorded
    assert job.table(output, "annotations/smolvlm").equals(answers)
    without_ray.command("clean", "--output", output)
    assert weights.read_bytes() == before
