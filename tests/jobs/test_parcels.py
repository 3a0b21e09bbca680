"""Small shards travel together, and each of them is still processed, counted and blamed by itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from actors.attempt_tracker import AttemptTracker, Deaths
from actors.records import Shard
from actors.shard_block import ShardTask, from_parcel, parcel_of_tasks, to_parcel
from jobs.run.parcels import ParcelLimits, limits_of, parcels
from tests.support import job, ray_cluster


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
    assert [one.shard_id for one in tracker.snapshot().in_flight] == ["a"]
    tracker.begin("detect", "b", "w1")
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


def test_a_worker_has_one_shard_in_progress_whatever_others_do(tracker):
    def in_flight() -> set[tuple[str, str]]:
        return {(one.stage, one.shard_id) for one in tracker.snapshot().in_flight}

    for stage, names, worker in (("detect", "ab", "w1"), ("detect", "cd", "w2"), ("commit", "ef", "w1")):
        assert tracker.start_together(stage, list(names), "node", worker)
    assert in_flight() == {("detect", "a"), ("detect", "c"), ("commit", "e")}
    tracker.begin("detect", "b", "w1")
    assert in_flight() == {("detect", "b"), ("detect", "c"), ("commit", "e")}
    # A worker that has died meanwhile, and one whose parcel is finished.
    tracker.begin("detect", "d", "w0")
    tracker.finish("detect", ["a", "b"], {})
    tracker.begin("detect", "a", "w1")
    assert in_flight() == {("detect", "c"), ("commit", "e")}


def test_a_parcel_that_was_finished_is_started_together_again(tracker):
    assert tracker.start_together("detect", ["a", "b"], "node", "w1")
    tracker.begin("detect", "b", "w1")
    steps = tracker.snapshot().steps
    tracker.finish("detect", ["a", "b"], {("in", "read"): 2})
    assert tracker.snapshot().steps > steps
    assert tracker.start_together("annotate", ["a", "b"], "node", "w1")
    assert tracker.start_together("detect", ["a", "b"], "node", "w1")


# The real graph on real workers. Only the work is made up: each shard waits until it is the only one that the
# tracker takes to be in progress, and says which ones it did.
_WAITING = """
import json
import sys
import time

import ray

from actors.attempt_tracker import start_tracker
from actors.commit.accounting import ShardSummary
from actors.records import Shard
from actors.shard_block import ShardTask
from actors.stage_workers import StageContext
from actors.stages import BlockStage, Resources
from jobs.run.graph import run_graph

ray.init(address=sys.argv[1], log_to_driver=False)
tracker = start_tracker()
tasks = [ShardTask(Shard(name, f"in/{name}", "webdataset", "e", 1), "detect") for name in "abcdefgh"]


def commit(block, report_progress):
    name = block.task.shard.shard_id
    deadline = time.monotonic() + 20
    while True:
        told = [(one.stage, one.shard_id) for one in ray.get(tracker.snapshot.remote()).in_flight]
        if told == [("commit", name)] or time.monotonic() > deadline:
            return block.committed(ShardSummary(name, "done", error=json.dumps(told)).to_json())
        time.sleep(0.05)


stages = [BlockStage("commit", Resources(workers=1), commit, keeps_state=False)]
summaries = list(run_graph(tasks, stages, StageContext(tracker, 3)))
print(json.dumps({s.shard_id: json.loads(s.error) for s in summaries}))
"""


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_the_shard_of_a_parcel_that_takes_long_is_the_one_in_progress(tmp_path):
    script = tmp_path / "waiting.py"
    script.write_text(_WAITING)
    done = job.finish(job.start_program(script, ray_cluster.address()))
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    # The first of each parcel is known when the parcel is, and the second from the worker's thread.
    assert said == {name: [["commit", name]] for name in "abcdefgh"}
