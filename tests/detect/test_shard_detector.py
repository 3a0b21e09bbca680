"""Detection of one shard holds the crops of kept people, not its frames, and says which frames failed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from actors.detect.crops import CropSettings
from actors.detect.person_detector import PersonDetector
from actors.detect.roi import RoiSettings
from actors.detect.settings import DetectorSettings, resolve_detector
from actors.detect.shard_detector import MIN_FRAMES_OF_SHARE, ShardDetector
from actors.read.settings import InputSettings
from actors.records import Shard
from actors.shard_block import ShardBlock, ShardTask
from actors.storage.object_store import StorageSettings
from tests.support import bad_inputs as bad
from tests.support.job import Models

FRAME_BYTES = 500_000


@pytest.fixture(scope="module")
def detector_of(models: Models):
    """Return a function that makes a detector with the given rules; the network is exported once."""

    def make(
        roi: dict[str, object] | None = None,
        crops: CropSettings = CropSettings(),  # noqa: B008  it is frozen
        max_failed_frames: float = 0.9,
        **detector: object,
    ) -> ShardDetector:
        settings = DetectorSettings(
            weights=str(models.weights), cache_dir=str(models.cache), image_size=320, **detector
        )
        resolved = resolve_detector(settings, StorageSettings())
        rules = RoiSettings.model_validate(roi or {})
        return ShardDetector(
            InputSettings(), StorageSettings(), settings, resolved, rules, crops, max_failed_frames
        )

    return make


def task_of(path: Path, files: dict[str, bytes], previews: int = 0) -> ShardTask:
    path.write_bytes(bad.tar(files))
    shard = Shard(path.stem, str(path), "webdataset", "etag", path.stat().st_size)
    return ShardTask(shard, "detect", previews=previews)


def heavy_jpeg(seed: int) -> bytes:
    """Return a JPEG of a small picture that takes half a megabyte, most of it a comment."""
    image = bad.jpeg(160, 120, seed)
    noise = np.random.default_rng(seed).bytes(60_000)
    comments = b"".join(
        b"\xff\xfe" + (60_002).to_bytes(2, "big") + noise for _ in range(FRAME_BYTES // 60_000)
    )
    return image[:2] + comments + image[2:]


def peak_bytes(detector: ShardDetector, task: ShardTask) -> int:
    tracemalloc.start()
    try:
        block = detector.detect(ShardBlock(task))
        assert block.error is None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("scope", ["frame", "shard"])
def test_memory_does_not_grow_with_the_encoded_frames(detector_of, scope: str, tmp_path):
    detector = detector_of({"dynamic": {"scope": scope}}, max_detections=3)
    few, many = 8, 20
    files = {f"{i:03d}.jpg": heavy_jpeg(i) for i in range(many)}
    first = peak_bytes(detector, task_of(tmp_path / "few.tar", dict(list(files.items())[:few]), previews=2))
    second = peak_bytes(detector, task_of(tmp_path / "many.tar", files, previews=2))
    assert second - first < (many - few) * FRAME_BYTES / 4


def test_the_frames_of_a_preview_are_kept_whole(detector_of, tmp_path):
    files = {f"{i:03d}.jpg": bad.jpeg(160, 120, i) for i in range(6)}
    block = detector_of().detect(ShardBlock(task_of(tmp_path / "a.tar", files, previews=2)))
    assert len(block.previews) == 2
    assert all(files[f"{key}.jpg"] == data for key, data in block.previews.items())


CROWD = {"confidence": 1e-6, "iou": 1.0, "max_detections": 10_000}
"""Settings with which the untrained network finds thousands of people in a frame."""


@pytest.mark.parametrize("scope", ["frame", "shard", "camera"])
def test_the_crops_of_a_crowd_are_bounded_and_the_highest_scores_are_kept(detector_of, scope: str, tmp_path):
    crops = CropSettings(max_frame_bytes=2**20, padding=1)
    roi = {"dynamic": {"enabled": False, "scope": scope}}
    detector = detector_of(roi, crops, **CROWD)
    files = {f"{i}.jpg": bad.jpeg(1280, 960, i) for i in range(2)}
    block = detector.detect(ShardBlock(task_of(tmp_path / "crowd.tar", files)))
    for key in ("0", "1"):
        rows = [row for row in block.persons.to_pylist() if row["frame_key"] == key]
        assert len(rows) > 1000
        kept = [row for row in rows if row["kept"]]
        sizes = [len(row["crop"]) for row in kept]
        assert sum(sizes[:-1]) < 2**20 <= sum(sizes)
        assert [row["person_index"] for row in kept] == list(range(len(kept)))
        assert {row["drop_reason"] for row in rows[len(kept) :]} == {"max_frame_bytes"}
        assert not any(row["crop"] for row in rows[len(kept) :])


def test_a_wider_scope_keeps_the_same_people_whether_or_not_they_were_certain_to_be_dropped(
    detector_of, tmp_path, monkeypatch
):
    zones = [{"mode": "exclude", "rectangle": [0, 0, 0.3, 1]}]
    roi = {"max_persons": 5, "min_height_px": 20, "static": zones, "dynamic": {"scope": "shard"}}
    detector = detector_of(roi, **CROWD | {"max_detections": 200})
    files = {f"{i}.jpg": bad.jpeg(320, 240, i) for i in range(4)}
    task = task_of(tmp_path / "a.tar", files)
    found = detector.detect(ShardBlock(task))
    everyone = "actors.detect.shard_detector.select_candidates"
    monkeypatch.setattr(everyone, lambda _, persons: [None] * len(persons))
    assert found.persons.equals(detector.detect(ShardBlock(task)).persons)
    assert 0 < sum(found.persons["kept"].to_pylist()) <= 20


def test_a_shard_that_fails_by_its_bad_frames_names_the_first_three(detector_of, tmp_path):
    files = {f"bad-{i:02d}.jpg": b"x" * (i + 1) for i in range(12)}
    block = detector_of(max_failed_frames=0.5).detect(ShardBlock(task_of(tmp_path / "a.tar", files)))
    assert block.error is not None
    assert "12 of 12 frames failed, more than run.max_failed_frames=0.5 allows: bad-00: " in block.error
    assert "; bad-01: " in block.error
    assert "; bad-02: " in block.error
    assert block.error.endswith("; and 9 more")
    assert "bad-03" not in block.error
    assert block.frames.num_rows == 12


def test_the_description_of_failed_frames_is_bounded(detector_of, tmp_path):
    files = {f"{'k' * 90}/{i:02d}{'n' * 90}{'m' * 90}.jpg": b"" for i in range(12)}
    block = detector_of().detect(ShardBlock(task_of(tmp_path / "a.tar", files)))
    assert block.error is not None
    assert len(block.error) < 1500


@pytest.mark.parametrize(
    ("good", "broken", "fails"),
    [(0, 1, False), (0, MIN_FRAMES_OF_SHARE - 1, False), (0, MIN_FRAMES_OF_SHARE, True), (1, 9, False)],
)
def test_the_share_of_bad_frames_counts_from_ten_frames_on(
    detector_of, tmp_path, good: int, broken: int, fails: bool
):
    files = {f"bad-{i}.jpg": b"" for i in range(broken)}
    files |= {f"good-{i}.jpg": bad.jpeg(160, 120, i) for i in range(good)}
    block = detector_of(max_failed_frames=0.9).detect(ShardBlock(task_of(tmp_path / "a.tar", files)))
    assert (block.error is not None) == fails
    assert block.frames["status"].to_pylist().count("error") == broken


def test_a_frame_that_equals_its_predecessor_is_detected_once(detector_of, tmp_path, monkeypatch):
    detector = detector_of(max_detections=3)
    seen: list[int] = []
    real = PersonDetector.detect
    monkeypatch.setattr(
        PersonDetector, "detect", lambda self, images: (seen.append(len(images)), real(self, images))[1]
    )
    one, other = bad.jpeg(160, 120, 1), bad.jpeg(160, 120, 2)
    files = {"0.jpg": one, "1.jpg": one, "2.jpg": other, "3.jpg": one, "4.jpg": b"broken", "5.jpg": b"broken"}
    block = detector.detect(ShardBlock(task_of(tmp_path / "a.tar", files, previews=2)))
    assert seen == [1, 1, 1]
    frames = {row["frame_key"]: row for row in block.frames.to_pylist()}
    assert [frames[key]["status"] for key in "012345"] == ["ok"] * 4 + ["error"] * 2
    people = {key: [] for key in "0123"}
    for row in block.persons.to_pylist():
        people[row.pop("frame_key")].append(row)
    assert people["0"] == people["1"] == people["3"] != people["2"]
    assert len(people["0"]) == frames["0"]["detected"] > 0
