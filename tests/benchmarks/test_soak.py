"""The throughput of a soak is that of the work, not of the starts."""

import pytest

from benchmarks.soak import Sample, rates


def seen(run: int, course: dict[int, int]) -> list[Sample]:
    """Return samples of a run: committed shards by time in seconds."""
    return [Sample(at_s, run, shards, 0, 0, 0) for at_s, shards in course.items()]


def test_a_rate_is_that_between_the_first_and_the_last_commit_of_a_run():
    first = seen(1, {0: 0, 30: 0, 32: 10, 92: 110, 120: 110})
    second = seen(2, {150: 110, 190: 120, 220: 170})
    assert rates([*first, *second]) == pytest.approx([100, 100])


def test_the_start_of_a_driver_after_a_kill_is_not_counted():
    course = seen(1, {0: 0, 10: 5, 40: 55, 41: 55, 71: 55, 80: 60, 110: 110})
    assert rates(course, drivers_killed=[42]) == pytest.approx([60 * 105 / (100 - 38)])
    assert rates(course, drivers_killed=[2, 111]) == rates(course) == pytest.approx([63])


def test_the_time_after_two_kills_without_a_commit_in_between_is_left_out_once():
    course = seen(1, {0: 0, 10: 5, 41: 55, 81: 55, 110: 60, 112: 105, 150: 155})
    assert rates(course, drivers_killed=[80, 42, 60]) == pytest.approx([60 * 150 / (140 - 68)])
    # Nobody saw whether the commit between 81 and 110 came before the kill at 109.
    assert rates(course, drivers_killed=[42, 109]) == pytest.approx([60 * 150 / (140 - 70)])
    assert rates(course, drivers_killed=[42, 111]) == pytest.approx([60 * 150 / (140 - 68 - 39)])


def test_a_run_without_two_commits_has_no_rate():
    assert rates(seen(1, {0: 0, 10: 5, 20: 5})) == []
