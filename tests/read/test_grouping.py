"""Groups of images keep their size near the setting, and a few other images change few of them."""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections import Counter
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.read.grouping import divide, min_size

NAMES = st.lists(st.text("abc019._-é", min_size=1, max_size=12), unique=True, max_size=120).map(sorted)
SIZES = st.integers(1, 12)

Labelled = tuple[str, tuple[str, ...]]


def groups_of(names: list[str], size: int) -> list[Labelled]:
    return [(group.label, tuple(names[group.start : group.stop])) for group in divide(names, size)]


@settings(deadline=None)
@given(NAMES, SIZES)
def test_every_image_is_in_one_group_and_sizes_stay_within_their_bounds(names: list[str], size: int):
    groups = groups_of(names, size)
    assert [name for _, members in groups for name in members] == names
    least = min_size(size)
    assert all(least <= len(members) < 2 * least or len(groups) == 1 for _, members in groups)
    assert all(len(members) < 2 * least for _, members in groups)
    assert len({label for label, _ in groups}) == len(groups)


def is_fixed(position: int, names: list[str], least: int) -> bool:
    """Whether a start depends on no image that is `least` or more positions away."""

    def rank(name: str) -> bytes:
        return hashlib.sha256(name.encode()).digest()

    around = names[max(0, position - least + 1) : position + least]
    return least <= position <= len(names) - least and rank(names[position]) == min(map(rank, around))


@settings(deadline=None)
@given(NAMES, st.text("abc019._-é", min_size=1, max_size=12), SIZES)
def test_an_image_that_comes_or_goes_changes_only_groups_between_the_nearest_fixed_starts(
    names: list[str], name: str, size: int
):
    least = min_size(size)
    without = [other for other in names if other != name]
    at = bisect(without, name)
    whole = [*without[:at], name, *without[at:]]
    before = [i for i in range(at + 1) if is_fixed(i, whole, least) and is_fixed(i, without, least)]
    after = [
        i for i in range(at + 1, len(whole)) if is_fixed(i, whole, least) and is_fixed(i - 1, without, least)
    ]
    start, stop = max(before, default=0), min(after, default=len(whole))
    changed = set(groups_of(whole, size)) ^ set(groups_of(without, size))
    assert all(set(members) <= set(whole[start:stop]) for _, members in changed)
    assert 1 <= len(changed & set(groups_of(whole, size))) <= max(1, (stop - start) // least)


def archive(frames: int) -> list[str]:
    """Return names as a recorder gives them: one every 5 seconds."""
    first = datetime(2026, 1, 1)
    return [f"cam-1_{first + timedelta(seconds=5 * i):%Y%m%d-%H%M%S}.jpg" for i in range(frames)]


def test_sizes_of_an_archive_are_near_the_setting():
    sizes = [len(members) for _, members in groups_of(archive(50_000), 256)]
    assert 245 < sum(sizes) / len(sizes) < 267
    assert min(sizes) >= 192
    assert max(sizes) <= 383


def test_one_image_more_or_less_in_an_archive_almost_always_changes_one_or_two_groups():
    names = archive(1500)
    whole = set(groups_of(names, 64))
    changes: Counter[int] = Counter()
    for position in range(0, len(names), 31):
        fewer = [*names[:position], *names[position + 1 :]]
        more = sorted([*names, f"{names[position]}-second.jpg"])
        for other in (fewer, more):
            changes[len(set(groups_of(other, 64)) - whole)] += 1
    assert changes[0] + changes[1] >= 0.85 * changes.total()
    assert changes[0] + changes[1] + changes[2] >= 0.98 * changes.total()
    assert max(changes) <= 3


def test_an_image_that_sorts_first_changes_the_first_group_only():
    names = archive(2000)
    before, after = groups_of(names, 100), groups_of(["aaa.jpg", *names], 100)
    assert len(before) > 15
    assert after[1:] == before[1:]
    assert after[0][1] == ("aaa.jpg", *before[0][1])


def test_frames_that_expire_change_the_first_groups_only():
    names = archive(5000)
    before = groups_of(names, 100)
    for expired in range(0, 1000, 50):
        left = groups_of(names[expired:], 100)
        assert len(set(left) - set(before)) <= 2


def test_frames_that_are_appended_change_the_last_groups_only():
    names = archive(5000)
    whole = groups_of(names, 100)
    for count in range(3000, 4000, 50):
        assert len(set(groups_of(names[:count], 100)) - set(whole)) <= 3
