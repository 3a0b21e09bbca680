"""Who was erased is known again in a later detection, however the input is divided into shards."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from actors.erasure.left_out import leave_out, read_left_out, remember, remember_before
from actors.errors import OutputError
from actors.records import FRAMES_SCHEMA, PERSONS_SCHEMA, Shard
from actors.shard_block import ShardBlock, ShardTask
from actors.storage.object_store import ObjectStore

SHARD = Shard("till", "in/till.tar", "webdataset", "etag", 10)
OTHER = replace(SHARD, shard_id="door")
LEFT, RIGHT = (0.1, 0.1, 0.3, 0.9), (0.5, 0.1, 0.7, 0.9)
JANUARY, MARCH = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


def detected(*boxes: tuple[float, ...], shard: Shard = SHARD) -> ShardBlock:
    times = {"f": JANUARY, "g": MARCH}
    number = {"detected": len(boxes), "kept": len(boxes), "status": "ok"}
    frames = [
        {"shard_id": shard.shard_id, "frame_key": key, "captured_at": time} | number
        for key, time in times.items()
    ]
    person = {"shard_id": shard.shard_id, "score": 0.5, "kept": True}
    persons = [
        {"frame_key": key, "person_index": index, "bbox": np.array(box, np.float32)} | person
        for key in times
        for index, box in enumerate(boxes)
    ]
    return ShardBlock(
        ShardTask(shard, "detect"),
        pa.Table.from_pylist(frames, FRAMES_SCHEMA),
        pa.Table.from_pylist(persons, PERSONS_SCHEMA),
        previews={"f": b"f", "g": b"g"},
    )


def staying(store: ObjectStore, *boxes: tuple[float, ...], shard: Shard = SHARD) -> list[tuple[str, int]]:
    """Return who stays of two frames with the same boxes, after a look at numbers and previews."""
    block = leave_out(detected(*boxes, shard=shard), read_left_out(store, shard))
    assert block.frames is not None
    assert block.persons is not None
    rows = [(row["frame_key"], row["person_index"]) for row in block.persons.to_pylist()]
    for frame in block.frames.to_pylist():
        number = sum(key == frame["frame_key"] for key, _ in rows)
        assert (frame["detected"], frame["kept"]) == (number, number)
        if number < len(boxes):
            assert frame["frame_key"] not in block.previews
    return rows


def test_nobody_is_left_out_of_an_output_without_erasures(store: ObjectStore):
    assert read_left_out(store, SHARD) is None
    assert len(staying(store, LEFT, RIGHT)) == 4


def test_a_person_is_left_out_whose_box_has_moved_a_little(store: ObjectStore):
    remember(store, SHARD, {"f": {0: LEFT}})
    moved = (0.12, 0.1, 0.32, 0.85)
    assert staying(store, RIGHT, moved) == [("f", 0), ("g", 0), ("g", 1)]
    assert len(staying(store, RIGHT, moved, shard=OTHER)) == 4


def test_the_same_detection_leaves_out_no_other_person_that_overlaps(store: ObjectStore):
    remember(store, SHARD, {"f": {0: LEFT}})
    behind, before = (0.11, 0.1, 0.31, 0.9), (0.12, 0.1, 0.32, 0.9)
    assert staying(store, LEFT, behind) == [("f", 1), ("g", 0), ("g", 1)]
    assert staying(store, before, behind) == [("g", 0), ("g", 1)]


def test_all_persons_of_a_frame_are_left_out_and_it_is_not_drawn(store: ObjectStore):
    remember(store, SHARD, {"f": None})
    remember(store, SHARD, {"f": {0: LEFT}})
    assert staying(store, LEFT, RIGHT) == [("g", 0), ("g", 1)]
    assert leave_out(detected(), read_left_out(store, SHARD)).previews == {"g": b"g"}


def test_all_persons_before_the_latest_time_are_left_out(store: ObjectStore):
    remember_before(store, datetime(2026, 2, 1, tzinfo=UTC))
    remember_before(store, datetime(2025, 2, 1, tzinfo=UTC))
    remember_before(store, datetime(2026, 2, 1, tzinfo=UTC))
    assert staying(store, LEFT, RIGHT) == [("g", 0), ("g", 1)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SHARD, replace(SHARD, shard_id="till.part-00001", start=5, stop=9)),
        (SHARD, replace(SHARD, shard_id="till.from-00000007", first_frame=7)),
        (replace(SHARD, shard_id="till.part-00001.from-00000007", start=5), SHARD),
        (
            replace(SHARD, shard_id="images-0123456789ab", format="images"),
            replace(SHARD, shard_id="images-ba9876543210", format="images"),
        ),
    ],
)
def test_another_division_of_the_input_brings_nobody_back(store: ObjectStore, before: Shard, after: Shard):
    remember(store, before, {"f": None})
    assert staying(store, LEFT, shard=after) == [("g", 0)]


def test_files_that_only_look_like_parts_are_different_files(store: ObjectStore):
    remember(store, replace(SHARD, shard_id="till.part-00001"), {"f": None})
    assert len(staying(store, LEFT, shard=replace(SHARD, shard_id="till.part-00002"))) == 2


def test_what_is_remembered_is_written_once_and_damage_is_not_ignored(store: ObjectStore):
    remember(store, SHARD, {"f": {0: LEFT}})
    paths = [info.path for info in store.list()]
    remember(store, SHARD, {"f": {0: LEFT}})
    assert [info.path for info in store.list()] == paths
    store.write(next(path for path in paths if "left-out" in path), b"{}")
    with pytest.raises(OutputError, match="erased persons come back"):
        read_left_out(store, SHARD)
