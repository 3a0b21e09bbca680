"""The time left is rough but honest: nothing without a base, and by more than commits."""

from __future__ import annotations

import io

import pytest

from actors.attempt_tracker import Snapshot
from actors.commit.accounting import ShardSummary
from actors.storage.commit_record import Counts
from jobs.run.progress import ProgressDisplay
from jobs.run.time_left import TimeLeft

SIXTEEN = {f"s{number:02d}": 1000 for number in range(16)}


def done(number: int, frames: int = 100, kept: int = 200) -> ShardSummary:
    return ShardSummary(f"s{number:02d}", "done", Counts(frames=frames, kept=kept))


def test_nothing_is_said_before_a_shard_is_committed():
    left = TimeLeft(SIXTEEN)
    assert left.text(0, Snapshot()) == ""
    assert left.text(10, Snapshot(frames=400, persons=800, answers=100)) == ""


def test_two_shards_committed_at_once_do_not_mean_that_the_others_take_no_time():
    left = TimeLeft(SIXTEEN)
    left.text(0, Snapshot(frames=1))
    left.add(done(0))
    left.add(done(1))
    # Two of sixteen shards took ten minutes, and the fourteen others will take seven times as long.
    assert left.text(600, Snapshot()) == "about 70 min left"
    assert left.text(601, Snapshot()) == "about 80 min left"


def test_frames_and_answers_within_shards_count_and_the_slowest_stage_decides():
    left = TimeLeft(SIXTEEN)
    left.text(0, Snapshot(frames=1))
    left.add(done(0))
    # All 1,600 frames are detected, and 1,600 of 3,200 persons have an answer.
    assert left.text(600, Snapshot(frames=1600, persons=3200, answers=1600)) == "about 10 min left"
    assert left.text(600, Snapshot(frames=800, persons=1600)) == "about 10 min left"
    assert left.text(600, Snapshot(frames=1600, answers=3100)) == "less than 1 min left"


def test_shards_of_other_sizes_and_shards_that_were_postponed_are_taken_into_account():
    left = TimeLeft({"small": 1000, "gone": 1000, "large": 8000})
    left.text(0, Snapshot(frames=1))
    left.add(ShardSummary("small", "done", Counts(frames=100, kept=0)))
    left.add(ShardSummary("gone", "postponed"))
    # Of 900 frames 450 are done.
    assert left.text(300, Snapshot(frames=450)) == "about 5 min left"
    left.add(ShardSummary("large", "done", Counts(frames=800, kept=0)))
    assert left.text(600, Snapshot(frames=900)) == ""


def test_counts_that_begin_again_give_no_negative_rate(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.run.progress._PLAIN_EVERY_S", 0)
    written = io.StringIO()
    with ProgressDisplay(written, {"s00": 1}) as display:
        display.refresh(Snapshot(frames=100, persons=200, answers=50))
        display.refresh(Snapshot(answers=1))
    assert "frames 0 (0.0/s now, 0.0/s overall), persons 0 (0.0/s now" in written.getvalue()
    assert "(-" not in written.getvalue()


@pytest.mark.parametrize("shards", [1, 2])
def test_the_line_of_a_run_without_a_terminal_says_it(shards: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.run.progress._PLAIN_EVERY_S", 0)
    written = io.StringIO()
    with ProgressDisplay(written, {f"s{number:02d}": 1 for number in range(shards)}) as display:
        display.refresh(Snapshot(frames=10))
        assert "left" not in written.getvalue()
        assert f"0 of {shards} shard{'s' if shards > 1 else ''}, " in written.getvalue()
        display.add(done(0))
    assert ("less than 1 min left" in written.getvalue()) == (shards > 1)
