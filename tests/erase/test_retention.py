"""Detection leaves out the persons that are older than `output.retain_days`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from actors.commit.settings import OutputSettings
from actors.detect.crops import CropSettings
from actors.detect.restored_crops import CropRestorer
from actors.detect.roi import RoiSettings
from actors.detect.settings import DetectorSettings, resolve_detector
from actors.detect.shard_detector import ShardDetector
from actors.erasure.left_out import read_left_out, remember_before
from actors.read.listing import list_shards
from actors.read.settings import InputSettings
from actors.shard_block import ShardBlock, ShardTask, report_nothing
from actors.stages import Resources, detect_stage
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from tests.support import bad_inputs as bad
from tests.support.job import Models

NOW = datetime(2026, 3, 31, tzinfo=UTC)
AGES_DAYS = {"old": 40, "new": 20, "without": None}


@pytest.fixture
def source(tmp_path: Path) -> InputSettings:
    """The same picture at different times."""
    files: dict[str, bytes] = {}
    for key, days in AGES_DAYS.items():
        files[f"{key}.jpg"] = bad.jpeg(320, 240)
        if days is not None:
            files[f"{key}.json"] = json.dumps({"captured_at": str(NOW - timedelta(days=days))}).encode()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(bad.tar(files))
    return InputSettings(uri=str(tmp_path / "in"))


def test_persons_of_older_frames_are_left_out(models: Models, source: InputSettings, tmp_path: Path):
    storage, crops = StorageSettings(), CropSettings()
    settings = DetectorSettings(weights=str(models.weights), cache_dir=str(models.cache), image_size=320)
    resolved = resolve_detector(settings, storage)
    detector = ShardDetector(source, storage, settings, resolved, RoiSettings(), crops, 0.9)
    restorer = CropRestorer(source, storage, crops, None)
    (shard,) = list_shards(source, storage)

    def found(since: datetime | None) -> dict[str, int]:
        store = ObjectStore(str(tmp_path / "out"))
        stage = detect_stage(Resources(1), detector, restorer, store, retained_since=since)
        block = stage.work(ShardBlock(ShardTask(shard, "detect", previews=3)), report_nothing)
        counts = {row["frame_key"]: row["detected"] for row in block.frames.to_pylist()}
        rows = block.persons["frame_key"].to_pylist()
        assert counts == {key: rows.count(key) for key in AGES_DAYS}
        assert sorted(block.previews) == sorted(key for key, count in counts.items() if count)
        return counts

    (everybody,) = set(found(None).values())
    assert everybody > 0
    assert found(NOW - timedelta(days=30)) == {"old": 0, "new": everybody, "without": everybody}


def test_the_later_one_of_retention_and_erasure_counts(source: InputSettings, tmp_path: Path):
    store = ObjectStore(str(tmp_path / "out"))
    (shard,) = list_shards(source, StorageSettings())
    days = [NOW - timedelta(days=number) for number in (1, 2, 3)]
    assert read_left_out(store, shard, days[1]).before == days[1]
    remember_before(store, days[0])
    assert read_left_out(store, shard, days[1]).before == days[0]
    remember_before(store, days[2])
    assert read_left_out(store, shard).before == days[0]


def test_the_time_follows_from_the_days():
    assert OutputSettings().retained_since() is None
    since = OutputSettings(retain_days=2).retained_since()
    assert since is not None
    assert timedelta(days=2) <= datetime.now(UTC) - since < timedelta(days=3)
