"""Small shards travel together, and each of them is still processed, counted and blamed by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.attempt_tracker import AttemptTracker, Deaths
from actors.records import Shard
from actors.shard_block import ShardTask, from_parcel, parcel_of_tasks, to_parcel
from jobs.run.parcels import ParcelLimits, limits_of, parcels


def task(name: str, size: int = 1000) -> ShardTask:
    return ShardTask(Shard(name, f"file:///in/{name}.tar", "webdataset", "e", size, members=b"\0m"), "detect")


def names(found: list[list[ShardTask]]) -> list[str]:
    return ["".join(one.shard.shard_id for one in parcel) for parcel in found]


def test_parcels_have_a_largest_number_and_size_and_keep_the_order():
    three = ParcelLimits(3, 8 << 20)
    assert names(list(parcels([task(name) for name in "abcdefg"], three))) == ["abc", "def", "g"]
    large = 5 << 20
    mixed = [task("a"), task("b", large), task("c", large), task("d"), task("e", 10 * large), task("f")]
    assert names(list(parcels(mixed, ParcelLimits(10, 8 << 20)))) == ["ab", "cd", "e", "f"]
    assert list(parcels([], three)) == []


@pytest.mark.parametrize(
    ("shards", "workers", "most"), [(1, 2, 1), (7, 2, 1), (24, 2, 3), (2000, 2, 32), (2000, 100, 5)]
)
def test_a_parcel_is_small_enough_that_all_workers_have_some(shards: int, workers: int, most: int):
    assert limits_of(shards, workers, False, 256 << 20) == ParcelLimits(most, 8 << 20)
    assert limits_of(shards, workers, True, 256 << 20) == ParcelLimits(min(8, most), 2 << 20)
    assert limits_of(shards, workers, False, 16 << 20).stored_bytes == 512 << 10


def test_shards_come_out_of_a_parcel_as_they_went_in():
    tasks = [task(name) for name in "abc"]
    planned = from_parcel(parcel_of_tasks(tasks))
    assert [block.task for block in planned] == tasks
    blocks = [
        replace(planned[0], timings_s={"detect": 0.5}, previews={"f": b"jpeg"}),
        planned[1].failed("no tar"),
        planned[2].committed("{}"),
    ]
    assert from_parcel(to_parcel(blocks)) == [blocks[0], blocks[1], blocks[2]]
    assert from_parcel(parcel_of_tasks([])) == []
    table = to_parcel(blocks)
    with pytest.raises(ValueError, match="must be one row"):
        from_parcel(table.slice(0, 0))


@pytest.fixture
def tracker() -> AttemptTracker:
    return AttemptTracker(lambda: {"node"}, lambda worker: worker == "full")


def test_shards_whose_worker_dies_are_started_by_themselves_until_it_is_known_which_one_it_dies_of(tracker):
    here = ("node", "w1")
    assert tracker.start_together("detect", ["a", "b", "c"], *here)
    assert tracker.snapshot().in_flight == ()
    tracker.begin("detect", "b")
    assert [one.shard_id for one in tracker.snapshot().in_flight] == ["b"]
    assert tracker.snapshot().in_progress == {"detect": 1}
    # The worker dies, and nobody knows of which shard.
    assert not tracker.start_together("detect", ["a", "b", "c"], *here)
    assert tracker.snapshot().deaths == {"detect": 1}
    assert tracker.snapshot().in_flight == ()
    for deaths in range(3):
        assert tracker.start("detect", "b", *here) == Deaths(by_shard=deaths)
    for name in "acb":
        assert tracker.start("detect", name, *here) == Deaths(by_shard=3 if name == "b" else 0)
        tracker.finish("detect", [name], {})
    assert tracker.snapshot().deaths == {"detect": 4}
    assert tracker.snapshot().in_flight == ()


def test_a_parcel_that_was_finished_is_started_together_again(tracker):
    assert tracker.start_together("detect", ["a", "b"], "node", "w1")
    tracker.begin("detect", "a")
    steps = tracker.snapshot().steps
    tracker.finish("detect", ["a", "b"], {("in", "read"): 2})
    assert tracker.snapshot().steps > steps
    assert tracker.start_together("annotate", ["a", "b"], "node", "w1")
    assert tracker.start_together("detect", ["a", "b"], "node", "w1")
