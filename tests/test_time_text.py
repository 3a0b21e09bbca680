"""Durations and points in time have one notation."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from actors.time_text import duration, moment


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-1, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (5369, "89 min"),
        (5400, "1 h 30 min"),
        (7200, "2 h"),
        (172_799, "2 d"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "time",
    [
        1769846400,
        "2026-01-31T00:00-08:00",
        "2026-01-31T08:00:00Z",
        datetime(2026, 1, 31, tzinfo=ZoneInfo("America/Los_Angeles")),
    ],
)
def test_points_in_time_are_in_utc(time):
    assert moment(time) == "2026-01-31 08:00 UTC"
