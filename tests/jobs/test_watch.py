"""A run is stalled when nothing moves, and not when a shard takes long."""

from __future__ import annotations

import io
import time
from itertools import count

import pytest

from actors.attempt_tracker import AttemptTracker, Deaths, InFlight, Snapshot
from actors.commit.accounting import ShardSummary
from actors.errors import StalledError
from jobs.run.progress import ProgressDisplay, watch

DONE = ShardSummary("large", "done")
STUCK = InFlight("annotate", "large", 4)


def slow_shard(seconds: float):
    time.sleep(seconds)
    yield DONE


def test_a_shard_may_take_longer_than_the_deadline_while_answers_come():
    steps = count(1)
    with ProgressDisplay(io.StringIO(), {"large": 1}) as display:
        found = watch(slow_shard(5), lambda: Snapshot((STUCK,), steps=next(steps)), display, 1.5, 3)
        assert list(found) == [DONE]


def test_a_shard_of_which_nothing_comes_is_named():
    with (
        ProgressDisplay(io.StringIO(), {"large": 1}) as display,
        pytest.raises(StalledError, match=r"nothing moved for \d+ s; in progress: annotate: large for 4 s"),
    ):
        list(watch(slow_shard(20), lambda: Snapshot((STUCK,), steps=7), display, 1, 2))


def test_frames_answers_and_finished_shards_move_a_run_and_a_restarted_shard_does_not():
    tracker = AttemptTracker(lambda: {"node"}, lambda worker: False)
    moved = [tracker.snapshot().steps]

    def grew() -> bool:
        moved.append(tracker.snapshot().steps)
        return moved[-1] > moved[-2]

    assert tracker.start("detect", "a", "node", "w1") == Deaths()
    assert grew()
    assert tracker.start("detect", "a", "node", "w2") == Deaths(by_shard=1)
    assert not grew()
    tracker.report_progress(frames=1)
    assert grew()
    tracker.report_progress(answers=3)
    assert grew()
    tracker.finish("detect", ["a"], {})
    assert grew()


def test_a_worker_that_died_with_its_node_or_for_its_memory_does_not_count_against_the_shard():
    alive = {"one", "two"}
    tracker = AttemptTracker(lambda: alive, lambda worker: worker == "w3")
    assert tracker.start("detect", "a", "one", "w1") == Deaths()
    alive.remove("one")
    assert tracker.start("detect", "a", "two", "w2") == Deaths()
    assert tracker.start("detect", "a", "two", "w3") == Deaths(by_shard=1)
    assert tracker.start("detect", "a", "two", "w4") == Deaths(by_shard=1, for_memory=1)
