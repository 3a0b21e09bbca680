"""What one camera sees within a period is on one side, and other groups don't change a group's split."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import ConfigError
from jobs.dataset.splits import assign, group_of, parse_shares

SHARES = parse_shares("train=0.8,val=0.1,test=0.1")
START = datetime(2024, 5, 1, tzinfo=UTC)

frames = st.lists(
    st.tuples(
        st.sampled_from([None, "till", "door"]),
        st.one_of(st.none(), st.integers(0, 5 * 86_400).map(lambda s: START + timedelta(seconds=s))),
        st.sampled_from(["a", "a.part-00001", "a.from-00000010", "a.part-00001.from-00000002", "b"]),
    ),
    min_size=1,
    max_size=60,
)


@given(frames, st.sampled_from(["day", "hour", "minute"]), st.integers(0, 9))
def test_no_minute_of_a_camera_and_no_shard_without_times_is_on_two_sides(shots, period, seed):
    groups = [group_of(camera, time, shard_id, period) for camera, time, shard_id in shots]
    splits = assign(groups, SHARES, seed)
    sides: dict[tuple[str | None, str], set[str]] = {}
    for (camera, time, shard_id), group in zip(shots, groups, strict=True):
        when = shard_id[0] if time is None else f"{time:%Y-%m-%d %H:%M}"
        sides.setdefault((camera, when), set()).add(splits[group])
    assert all(len(some) == 1 for some in sides.values())
    assert splits == assign(groups[::-1], SHARES, seed)


def test_shares_are_kept_and_other_groups_do_not_matter():
    groups = [f"till/day {number}" for number in range(3000)]
    splits = assign(groups, SHARES, 0)
    counts = Counter(splits.values())
    assert counts["train"] == pytest.approx(2400, abs=120)
    assert counts["val"] == pytest.approx(300, abs=60)
    some = assign(groups[:200], SHARES, 0)
    assert some == {group: splits[group] for group in groups[:200]}
    assert assign(groups, SHARES, 1) != splits


def test_a_split_without_a_group_gets_one_as_long_as_there_are_enough():
    for count in range(1, 9):
        splits = assign([f"till/day {number}" for number in range(count)], SHARES, 0)
        assert len(splits) == count
        assert len(set(splits.values())) == min(count, 3)


def test_shares_are_normalised():
    assert parse_shares("val=1, train=3") == {"train": 0.75, "val": 0.25}


@pytest.mark.parametrize(
    "text", ["train", "train=x", "dev=1", "train=1,train=1", "train=-1", "train=0", "", "train=inf"]
)
def test_wrong_shares_are_explained(text: str):
    with pytest.raises(ConfigError, match="--splits"):
        parse_shares(text)
