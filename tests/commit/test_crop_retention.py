"""Crops are kept as long as `output.keep_crops` says, and removed crops are cut again with the same bytes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.commit.committed_shard import load_committed
from actors.commit.committer import Committer
from actors.commit.crop_retention import needs_crops
from actors.commit.settings import KeepCrops, OutputSettings
from actors.detect.crops import CropSettings
from actors.detect.restored_crops import CropRestorer
from actors.detect.roi import RoiSettings
from actors.detect.settings import DetectorSettings, resolve_detector
from actors.detect.shard_detector import ShardDetector
from actors.errors import CropRestoreError
from actors.gemini.backlog.drain import Ask, ShardDrainer
from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.online import OnlineAnnotator
from actors.gemini.protocol import Answers, AskedCrop, DrainTask
from actors.gemini.settings import GeminiSettings, resolve_gemini
from actors.read.listing import list_shards
from actors.read.settings import InputSettings
from actors.shard_block import ShardBlock, ShardTask
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from actors.smolvlm.shard_annotator import ShardAnnotator
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.tables import from_parquet, to_parquet
from jobs.run.graph import rest_of
from tests.servers.gemini_server import KEY, gemini_server
from tests.support import bad_inputs as bad
from tests.support import gemini_job, job, without_ray
from tests.support.gemini_asking import SCHEMA, settings_for
from tests.support.job import Models
from tests.support.quota_simulation import SimulatedClock

pytestmark = pytest.mark.timeout(900)

MODES: tuple[KeepCrops, ...] = ("until_annotated", "always", "never")
STORAGE = StorageSettings()
PRINTS = {"detect": "d", "person_json": "p"}


# --- cutting crops again ---


def write_tar(folder: Path) -> None:
    job.write_shards(folder, "ab")


def write_parts(folder: Path) -> None:
    job.write_shards(folder, "a", frames=12)


def write_parquet(folder: Path) -> None:
    folder.mkdir()
    images = [bad.jpeg(320, 240, 7), bad.png(200, 300, 8)]
    (folder / "a.parquet").write_bytes(bad.parquet({"image": images}))


def write_zip(folder: Path) -> None:
    folder.mkdir()
    content = {"one.jpg": bad.exif_rotated_jpeg(), "two.webp": bad.webp(320, 240, 3)}
    (folder / "a.zip").write_bytes(bad.zipped(content))


def write_images(folder: Path) -> None:
    (folder / "deep").mkdir(parents=True)
    for number in range(5):
        (folder / "deep" / f"frame-{number}.jpg").write_bytes(bad.jpeg(320, 240, number))
    (folder / "deep" / "frame-3.json").write_text('{"camera": "till"}')


@dataclass(frozen=True)
class Cutting:
    """Runs the functions of the stages on all shards of a source, in this process."""

    source: Path
    output: Path
    detector: ShardDetector
    keep: KeepCrops = "never"

    @property
    def store(self) -> ObjectStore:
        return ObjectStore(str(self.output))

    def crop_restorer(self, fingerprint: str = PRINTS["detect"]) -> CropRestorer:
        return CropRestorer(self.detector.input, STORAGE, self.detector.crops, fingerprint)

    def committer(self, **prints: str) -> Committer:
        return Committer(self.store, OutputSettings(keep_crops=self.keep), SCHEMA, PRINTS | prints)

    def detect(self) -> dict[str, pa.Table]:
        """Commit all shards, and return each shard's persons with the crops that detection cut."""
        found = {}
        tasks = [ShardTask(shard, "detect") for shard in list_shards(self.detector.input, STORAGE)]
        while tasks:
            task = tasks.pop()
            block = self.detector.detect(ShardBlock(task))
            summary = self.committer().commit(block)
            assert summary.state == "done"
            found[summary.shard_id] = block.persons
            rest = rest_of(task, summary)
            tasks += [] if rest is None else [rest]
        return found

    def annotate(self, annotator: ShardAnnotator) -> None:
        """Commit all shards with SmolVLM's answers, starting from the committed persons if there are any."""
        committer = self.committer(smolvlm=annotator.resolved.fingerprint)
        for shard in list_shards(self.detector.input, STORAGE):
            found = read_record(self.store, shard.shard_id)
            if found is None:
                block = self.detector.detect(ShardBlock(ShardTask(shard, "detect")))
            else:
                task = ShardTask(shard, "annotate", replaces=found[0].attempt_id, attempt=2)
                block, record = load_committed(ShardBlock(task), self.store)
                block = self.crop_restorer().fill_crops(block, record)
            block = annotator.annotate(block)
            assert committer.commit(block).state == "done"

    def drainer(self, settings: GeminiSettings, fingerprint: str = PRINTS["detect"]) -> ShardDrainer:
        resolved = resolve_gemini(settings, SCHEMA)
        committer = self.committer(gemini=resolved.fingerprint)
        return ShardDrainer(committer, SCHEMA, resolved, GeminiCameras(), self.crop_restorer(fingerprint))

    def cut_again(self, shard_id: str, fingerprint: str = PRINTS["detect"]) -> pa.Table:
        """Return the persons as Gemini's stage loads them."""
        block, _ = self.drainer(GeminiSettings(), fingerprint).load(DrainTask(shard_id))
        assert block.persons is not None
        return block.persons


@pytest.fixture(scope="module")
def cutting(models: Models, tmp_path_factory):
    """A function that returns a `Cutting` over a folder; all of them use the same detector model."""
    settings = DetectorSettings(weights=str(models.weights), cache_dir=str(models.cache), image_size=320)
    resolved = resolve_detector(settings, STORAGE)

    def over(source: Path, scope: str = "frame", **options: Any) -> Cutting:
        given = InputSettings(uri=str(source), **options)
        roi = RoiSettings.model_validate({"max_persons": 6, "dynamic": {"scope": scope}})
        detector = ShardDetector(given, STORAGE, settings, resolved, roi, CropSettings(), 0.9)
        return Cutting(source, tmp_path_factory.mktemp("cut") / "out", detector)

    return over


@pytest.mark.parametrize(
    ("write", "scope", "options"),
    [
        (write_tar, "shard", {}),
        (write_parts, "frame", {"max_shard_bytes": 4096}),
        (write_parquet, "frame", {}),
        (write_zip, "frame", {}),
        (write_images, "camera", {"frames_per_shard": 3}),
    ],
)
def test_crops_are_cut_again_as_they_were(cutting, tmp_path, write, scope, options):
    write(tmp_path / "in")
    again = cutting(tmp_path / "in", scope, **options)
    first = again.detect()
    assert len(first) > 1 or write in (write_parquet, write_zip)
    assert sum(p["crop"].null_count < p.num_rows for p in first.values())
    for shard_id, persons in first.items():
        assert again.cut_again(shard_id).to_pylist() == persons.to_pylist()
    assert not any(crops_of(again.output))


def test_crops_of_a_shard_that_was_cut_are_cut_again_as_they_were(cutting, tmp_path):
    write_parts(tmp_path / "in")
    over = cutting(tmp_path / "in")
    again = replace(over, detector=replace(over.detector, crops=CropSettings(max_block_bytes=20_000)))
    first = again.detect()
    assert len(first) > 3
    for shard_id, persons in first.items():
        assert again.cut_again(shard_id).to_pylist() == persons.to_pylist()


def test_crops_of_real_frames_are_cut_again_as_they_were(cutting, tmp_path, frames_dir):
    for path in sorted(frames_dir.glob("*.jpg"))[:12]:
        shutil.copy(path, tmp_path)
    again = cutting(tmp_path)
    [(shard_id, persons)] = again.detect().items()
    assert persons["crop"].null_count < persons.num_rows
    assert again.cut_again(shard_id).to_pylist() == persons.to_pylist()


def test_a_source_that_is_gone_or_changed_and_other_settings_are_said_with_the_remedy(cutting, tmp_path):
    source = tmp_path / "in"
    write_tar(source)
    write_images(source)
    again = cutting(source)
    (group,) = (name for name in again.detect() if name.startswith("deep"))
    with pytest.raises(CropRestoreError, match="other settings"):
        again.cut_again("a", fingerprint="another")
    (source / "a.tar").unlink()
    (source / "deep/frame-1.jpg").write_bytes(bad.jpeg(320, 240, 99))
    for shard_id, trouble in (("a", "a.tar is no longer there"), (group, "deep has changed since")):
        with pytest.raises(CropRestoreError, match=rf"in/{trouble}.*output\.keep_crops: always"):
            again.cut_again(shard_id)
    (source / "deep/frame-1.jpg").unlink()
    with pytest.raises(CropRestoreError, match="deep is no longer there"):
        again.cut_again(group)
    assert again.cut_again("b")["crop"].null_count < again.cut_again("b").num_rows


# --- keeping crops ---


def answers(*statuses: str) -> pa.Table:
    return pa.table({"status": list(statuses)})


@pytest.mark.parametrize(
    ("enabled", "committed", "annotations", "expected"),
    [
        ({}, {}, {}, True),
        ({"smolvlm": "s"}, {"smolvlm": "s"}, {"smolvlm": answers("ok", "invalid", "blocked")}, False),
        ({"smolvlm": "s"}, {"smolvlm": "s"}, {"smolvlm": answers("ok", "error")}, True),
        ({"smolvlm": "new"}, {"smolvlm": "s"}, {"smolvlm": answers("ok")}, True),
        ({"smolvlm": "s", "gemini": "g"}, {"smolvlm": "s"}, {"smolvlm": answers("ok")}, True),
        ({"gemini": "g"}, {"gemini": "g"}, {"gemini": answers("truncated", "pending")}, True),
        # Crops aren't kept for persons who are pending only for a disabled annotator.
        ({"smolvlm": "s"}, {"smolvlm": "s"}, {"smolvlm": answers(), "gemini": answers("pending")}, False),
    ],
)
def test_crops_are_needed_while_an_enabled_annotator_owes_an_answer(
    enabled, committed, annotations, expected
):
    prints = PRINTS | enabled
    assert needs_crops("until_annotated", prints, committed, annotations) is expected
    assert needs_crops("always", prints, committed, annotations) is True
    assert needs_crops("never", prints, committed, annotations) is False


def crops_of(output: Path) -> Iterator[bytes]:
    """Yield the crops in all Parquet files of the output, including files that no commit record names."""
    for path in output.rglob("*.parquet"):
        if "crop" in pq.read_schema(path).names:
            yield from (crop for crop in pq.read_table(path)["crop"].to_pylist() if crop is not None)


@pytest.fixture(scope="module")
def prompts(models: Models, tmp_path_factory) -> list[ShardAnnotator]:
    """Two SmolVLM annotators that differ in their prompts."""
    path = tmp_path_factory.mktemp("prompt") / "prompt.txt"
    path.write_text("Describe this person. Answer in JSON:\n{schema}\n")
    nowhere = ObjectStore(str(path.parent / "out"))
    found = [SmolVLMSettings(model=str(models.smolvlm), prompt=prompt) for prompt in (None, str(path))]
    return [ShardAnnotator(s, resolve_smolvlm(s, SCHEMA), SCHEMA, 1, nowhere) for s in found]


def test_a_changed_prompt_gives_the_same_answers_whatever_was_kept(cutting, prompts, tmp_path):
    write_tar(tmp_path / "in")
    base = cutting(tmp_path / "in")
    rows, crops = {}, {}
    for mode in MODES:
        run = replace(base, output=tmp_path / mode, keep=mode)
        run.annotate(prompts[0])
        crops[mode] = len(list(crops_of(run.output)))
        before = job.bytes_of(run.output, "persons")
        run.annotate(prompts[1])
        assert job.bytes_of(run.output, "persons") == before
        assert not job.debris(run.output)
        rows[mode] = job.table(run.output, "annotations/smolvlm").to_pylist()
    kept = len(rows["always"])
    assert crops == {"until_annotated": 0, "always": kept, "never": 0}
    assert kept > 0
    assert {row["prompt_sha256"] for row in rows["always"]} == {prompts[1].resolved.prompt_sha256}
    assert rows["until_annotated"] == rows["always"] == rows["never"]


def test_gemini_answers_the_same_whatever_was_kept_and_leaves_no_crop(cutting, tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    write_tar(tmp_path / "in")
    write_images(tmp_path / "in")
    base = cutting(tmp_path / "in")
    rows, before, after = {}, {}, {}
    with gemini_server() as server:
        settings = settings_for(server.base_url, requests_per_minute=1000)
        for mode in MODES:
            run = replace(base, output=tmp_path / mode, keep=mode)
            shards = run.detect()
            before[mode] = len(list(crops_of(run.output)))
            drainer = run.drainer(settings)
            for shard_id in shards:
                ask = asking_of(settings, run.store)
                drained = asyncio.run(drainer.drain(DrainTask(shard_id), ask))
                assert (drained.error, drained.waiting) == (None, 0)
            after[mode] = len(list(crops_of(run.output)))
            rows[mode] = job.table(run.output, gemini_job.ANSWERS).to_pylist()
            assert not job.debris(run.output)
    kept = len(rows["always"])
    assert {row["status"] for row in rows["always"]} == {"ok"}
    assert before == {"until_annotated": kept, "always": kept, "never": 0}
    assert after == {"until_annotated": 0, "always": kept, "never": 0}
    assert answers_of(rows["until_annotated"]) == answers_of(rows["always"]) == answers_of(rows["never"])


def asking_of(settings: GeminiSettings, store: ObjectStore) -> Ask:
    """Return a function that asks Gemini as the throttled actor does, but without a cluster."""

    async def ask(crops: Sequence[AskedCrop]) -> Answers:
        resolved = resolve_gemini(settings, SCHEMA)
        return await OnlineAnnotator(settings, resolved, SCHEMA, store, SimulatedClock()).ask(crops)

    return ask


def answers_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [*job.ROW_KEYS, "status", "model", "prompt_sha256", *(a.name for a in SCHEMA)]
    return [{name: row[name] for name in names} for row in rows]


# --- crops after whole commands ---


@pytest.mark.slow
def test_crops_are_gone_once_both_annotators_have_answered(models, tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    source, output = tmp_path / "in", tmp_path / "out"
    job.write_shards(source, "ab")
    with gemini_server() as server:
        asking = gemini_job.options(server.base_url, requests_per_minute=1000, requests_per_day=1)
        without_ray.annotate(
            source, output, *models.options(), *asking, "--set", "gemini.persons_per_request=4"
        )
        kept = sum(record["counts"]["kept"] for record in job.records(output).values())
        waiting = [r for r in job.records(output).values() if "pending" in r["annotators"]["gemini"]]
        # The only request of the day answers one of the two shards; the other waits and keeps its crops.
        assert len(waiting) == 1
        assert len(list(crops_of(output))) == waiting[0]["counts"]["kept"]
        without_ray.gemini(output, server.base_url, requests_per_minute=1000, requests_per_day=100)
    assert gemini_job.outcomes(output) == {"ok": kept}
    assert list(crops_of(output)) == []
    assert not job.debris(output)


@pytest.fixture(scope="module")
def never_kept(models: Models, tmp_path_factory) -> Path:
    """The output of a run that kept no crops. The source of its shard b is gone now."""
    folder = tmp_path_factory.mktemp("never")
    source, output = folder / "in", folder / "out"
    write_images(source)
    job.write_shards(source, "ab")
    never = ["--set", "output.keep_crops=never"]
    without_ray.annotate(source, output, *models.options(smolvlm=False), *never)
    (source / "b.tar").unlink()
    return output


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "batch"])
def test_gemini_cuts_what_was_never_kept_and_a_vanished_source_costs_its_shard_alone(
    never_kept, tmp_path, mode
):
    output = tmp_path / "out"
    shutil.copytree(never_kept, output)
    before = job.records(output)
    with gemini_server() as server:
        settings = {"mode": mode, "batch.poll_s": 0.3, "requests_per_minute": 1000}
        without_ray.gemini(output, server.base_url, expect=1, **settings)
    after = job.records(output)
    assert after["b"] == before["b"]
    assert len(after) == 3
    for shard_id in after.keys() - {"b"}:
        assert after[shard_id]["annotators"] == {"gemini": {"ok": before[shard_id]["counts"]["kept"]}}
    [(shard_id, said)] = job.progress(output)["run"]["gemini"]["errors"].items()
    assert shard_id == "b"
    assert "in/b.tar is no longer there" in said
    assert "output.keep_crops: always" in said
    assert list(crops_of(output)) == []
    assert not job.debris(output)


@pytest.mark.slow
def test_a_source_that_changed_before_people_were_asked_about_again_leaves_the_shard_as_it_was(
    models, tmp_path
):
    source, output = tmp_path / "in", tmp_path / "out"
    job.write_shards(source, "a")
    without_ray.annotate(source, output, *models.options())
    record = job.records(output)["a"]
    # Make the output look as if SmolVLM's answers had been truncated.
    entry = next(e for e in record["objects"] if e["kind"] == "annotations/smolvlm")
    answered = from_parquet((output / entry["path"]).read_bytes())
    rows = [row | {"status": "truncated"} for row in answered.to_pylist()]
    (output / entry["path"]).write_bytes(to_parquet(pa.Table.from_pylist(rows, answered.schema)))
    outcomes = {"annotators": {"smolvlm": {"truncated": len(rows)}}}
    (output / "commits/a.json").write_text(json.dumps(record | outcomes))
    before = job.bytes_of(output, "commits") | job.bytes_of(output, "annotations")
    os.utime(source / "a.tar", (1, 1))
    without_ray.annotate(source, output, *models.options(), "--retry-annotator", "smolvlm", expect=1)
    assert job.bytes_of(output, "commits") | job.bytes_of(output, "annotations") == before
    log = (output / "processing.log").read_text()
    assert "a.tar has changed since its people were detected" in log
    assert "output.keep_crops: always" in log
