"""A detector ends a block before its crops are too large, and the rest of the shard gives the other rows."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from actors.detect.crops import CropSettings
from actors.detect.roi import RoiSettings
from actors.detect.settings import DetectorSettings, ResolvedDetector, resolve_detector
from actors.detect.shard_detector import ShardDetector
from actors.read.frame_range import frames_of
from actors.read.settings import InputSettings
from actors.records import Shard
from actors.shard_block import ShardBlock, ShardTask, to_parcel
from actors.storage.settings import StorageSettings
from tests.support import bad_inputs as bad
from tests.support.job import Models
from tests.support.shards_on_disk import shard_of

LIMIT = 3 * 2**20
PEOPLE = 100
ROW_BYTES = 256


@pytest.fixture(scope="module")
def network(models: Models) -> tuple[DetectorSettings, ResolvedDetector]:
    """A network that finds 100 people in every frame."""
    settings = DetectorSettings(
        weights=str(models.weights),
        cache_dir=models.cache,
        image_size=320,
        confidence=1e-6,
        iou=1.0,
        max_detections=PEOPLE,
    )
    return settings, resolve_detector(settings, StorageSettings())


def detector(network, max_block_bytes: int, max_failed_frames: float = 0.9, **roi) -> ShardDetector:
    settings, resolved = network
    return ShardDetector(
        InputSettings(),
        StorageSettings(),
        settings,
        resolved,
        RoiSettings.model_validate({"dynamic": {"enabled": False}} | roi),
        CropSettings(max_block_bytes=max_block_bytes, padding=1),
        max_failed_frames,
    )


def tar_of(path: Path, frames: int, width: int = 320, height: int = 240) -> Shard:
    """Write a compressed tar with frames, the third and the last of which are broken."""
    files = {f"{index:03d}.jpg": bad.jpeg(width, height, index) for index in range(frames)}
    files["002.jpg"] = files[f"{frames - 1:03d}.jpg"] = b"no image"
    return replace(shard_of(path, bad.tar_gz(files)), shard_id="a")


def parts_of(shard: Shard, detector: ShardDetector) -> Iterator[ShardBlock]:
    """Yield the blocks of a shard, as a run makes them one after another."""
    stop: int | None = 0
    while stop is not None:
        block = detector.detect(ShardBlock(ShardTask(frames_of(shard, stop, None), "detect")))
        assert block.task.shard.first_frame == stop
        stop = block.task.shard.stop_frame
        yield block


def weights_of(block: ShardBlock) -> Counter[str]:
    """Return the size of each frame: its crops, and a row for it and for each detection."""
    assert block.frames is not None
    assert block.persons is not None
    weights = Counter({row["frame_key"]: ROW_BYTES for row in block.frames.to_pylist()})
    for row in block.persons.to_pylist():
        weights[row["frame_key"]] += ROW_BYTES + len(row["crop"] or b"")
    return weights


def rows(blocks: list[ShardBlock], kind: str) -> list[dict[str, object]]:
    found = [row for block in blocks for row in getattr(block, kind).to_pylist()]
    assert [row["shard_id"] for row in found] == sorted(row["shard_id"] for row in found)
    return [row | {"shard_id": "-"} for row in found]


def test_the_blocks_of_a_cut_shard_are_full_and_have_the_rows_of_one_block(network, tmp_path):
    shard = tar_of(tmp_path / "a.tar.gz", 9)
    (whole,) = parts_of(shard, detector(network, 2**40))
    weights = weights_of(whole)
    limit = weights.total() // 3
    blocks = list(parts_of(shard, detector(network, limit)))
    assert len(blocks) in (3, 4, 5)
    for kind in ("frames", "persons"):
        assert rows(blocks, kind) == rows([whole], kind)
    for block, following in pairwise(map(weights_of, blocks)):
        assert block.total() <= limit < block.total() + following[min(following)]


def test_a_block_has_at_least_one_frame_and_is_cut_in_the_same_place_again(network, tmp_path):
    shard = tar_of(tmp_path / "a.tar.gz", 5)
    blocks = list(parts_of(shard, detector(network, 1)))
    assert [block.task.shard.shard_id for block in blocks] == ["a", *(f"a.from-{n:08d}" for n in range(1, 5))]
    assert [block.frames.num_rows for block in blocks] == [1] * 5
    again = detector(network, 2**40).detect(ShardBlock(blocks[1].task))
    assert again.task == blocks[1].task
    assert again.frames.equals(blocks[1].frames)


@pytest.mark.parametrize("scope", ["shard", "camera"])
def test_a_wider_scope_is_the_part_that_was_cut(network, scope: str, tmp_path):
    shard = tar_of(tmp_path / "a.tar.gz", 6)
    rule = {"dynamic": {"scope": scope, "ratio": 1.0}}
    (whole,) = parts_of(shard, detector(network, 2**40))
    limit = weights_of(whole).total() // 2
    for block in parts_of(shard, detector(network, limit, **rule)):
        task = replace(
            block.task, shard=frames_of(shard, block.task.shard.first_frame, block.task.shard.stop_frame)
        )
        alone = detector(network, 2**40, **rule).detect(ShardBlock(task))
        assert alone.persons.equals(block.persons)
        assert set(block.persons["kept"].to_pylist()) == {True, False}


def test_a_part_with_too_many_bad_frames_fails_and_still_says_where_the_rest_begins(network, tmp_path):
    files = {f"{index:03d}.jpg": b"no image" for index in range(20)} | {"020.jpg": bad.jpeg(320, 240)}
    shard = shard_of(tmp_path / "a.tar.gz", bad.tar_gz(files))
    bad_part, good_part = parts_of(shard, detector(network, 21 * ROW_BYTES))
    assert bad_part.error is not None
    assert bad_part.error.startswith("20 of 20 frames failed")
    assert (bad_part.task.shard.stop_frame, bad_part.frames.num_rows) == (20, 20)
    assert good_part.error is None


_ARROW = pa.proxy_memory_pool(pa.default_memory_pool())
"""It lives as long as the process, because Arrow's buffers refer to it without keeping it."""


def peak_bytes(shard: Shard, detector: ShardDetector) -> tuple[int, ShardBlock]:
    """Return the most memory that Python, NumPy and Arrow hold while a block is made and handed on."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(_ARROW)
    tracemalloc.start()
    try:
        block = detector.detect(ShardBlock(ShardTask(shard, "detect")))
        to_parcel([block])
        return tracemalloc.get_traced_memory()[1] + (_ARROW.max_memory() or 0), block
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def test_the_memory_of_a_detector_is_bounded_by_the_limit_and_not_by_the_shard(network, tmp_path):
    shard = tar_of(tmp_path / "a.tar.gz", 40, 1280, 960)
    one_frame, block = peak_bytes(shard, detector(network, 1))
    assert weights_of(block).total() * 40 > 7 * LIMIT
    peak, block = peak_bytes(shard, detector(network, LIMIT))
    assert block.frames.num_rows > 2
    assert LIMIT / 2 < weights_of(block).total() <= LIMIT
    assert peak - one_frame < 5 * LIMIT
