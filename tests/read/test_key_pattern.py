"""Camera and time are read from paths by a pattern, and what is wrong with a pattern is said."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from actors.read.key_pattern import KeyFacts, compile_pattern
from actors.read.local_time import in_utc

USUAL = "{camera}/{captured_at:%Y%m%d_%H%M%S}*.jpg"
AT_TEN = datetime(2024, 5, 1, 10, tzinfo=UTC)


def read(pattern: str, path: str, zone: str = "UTC") -> KeyFacts | None:
    return compile_pattern(pattern).read(path, zone)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (USUAL, "s3://bucket/archive/till/20240501_100000_17.jpg"),
        (USUAL, "till/20240501_100000.jpg"),
        ("{camera}/{captured_at:%Y%m%d_%H%M%S}", "/in/till/20240501_100000.JPG"),
        ("{camera}/{captured_at:%Y%m%d_%H%M%S}", "till/20240501_100000"),
        ("{captured_at:%Y-%m-%d}/{camera}/*/{captured_at:%H.%M.%S}*", "2024-05-01/till/a b/10.00.00x.png"),
        ("{camera}/{captured_at:%Y/%m/%d/%H/%M%S}", "x/till/2024/05/01/10/0000.webp"),
        ("in/{camera}/**/{captured_at:%s}.jpg", "/x/in/till/a/b/1714557600.jpg"),
        ("in/{camera}/**/{captured_at:%s%f}.jpg", "in/till/1714557600000.jpg"),
        ("/in/{camera}/{captured_at:%d%b%Y %I%M%p}", "/in/till/01May2024 1000AM.jpg"),
        ("CAM-{camera}_{captured_at:%y%j%H%M}", "CAM-till_241221000.jpg"),
        ("{camera}_{captured_at:%Y%m%dT%H%M%S%z}", "till_20240501T120000+0200.jpg"),
        ("{{{camera}}}{captured_at:%Y%m%d%%%H}", "{till}20240501%10.jpg"),
        ("{camera}~{captured_at}*", "till~2024-05-01T10:00:00Z~7.jpg"),
        (r"(?P<camera>[a-z]+)\d*/(?P<captured_at>[\d/-]+)\.jpg", "x/till17/2024/05/01/10-00-00.jpg"),
        (r"(?P<captured_at>\d{10})-(?P<camera>\w+?)(-\w+)?", "1714557600-till-x.jpg"),
        (r"(?P<camera>\w+)_(?P<captured_at>\d{14})\d*", "till_20240501100000123.jpg"),
        (r"(?P<camera>\w+)@(?P<captured_at>.{16})", "till@2024-05-01_10-00.jpg"),
        (r"(?i)^CAM-(?P<camera>\w+)/(?P<captured_at>\d+)\.JPG$", "/x/cam-till/20240501100000.jpg"),
    ],
)
def test_a_pattern_describes_the_end_of_a_path(pattern: str, path: str):
    assert read(pattern, path) == KeyFacts("till", AT_TEN)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (USUAL, "till/20240501-100000.jpg"),
        (USUAL, "till/20241341_100000.jpg"),
        (USUAL, "20240501_100000.jpg"),
        (USUAL, "till/20240501_100000.jpg/frame.jpg"),
        ("till{camera}/*", "intill-2/a.jpg"),
        (r"(?P<captured_at>\d+)", "2024.jpg"),
        ("{captured_at:%Y%m%d%z}", "00010101+1400.jpg"),
    ],
)
def test_other_paths_do_not_match(pattern: str, path: str):
    assert read(pattern, path) is None


def test_a_pattern_may_read_one_of_both_or_parts_of_a_camera():
    assert read("{camera}/*", "a/till/x.jpg") == KeyFacts("till")
    assert read("{camera}/*/{camera}_*", "shop-3/x/till_1.jpg") == KeyFacts("shop-3/till")
    assert read("*_{captured_at:%Y%m%d%H}", "x_2024050110.jpg") == KeyFacts(None, AT_TEN)
    # Groups that take no part in the match read nothing.
    optional = r"(?:(?P<camera>[a-z]+)-)?(?:(?P<captured_at>\d{12})-)?\d+"
    assert read(optional, "1.jpg") == KeyFacts()


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "has neither {camera} nor {captured_at:...}; write a pattern such as {camera}/"),
        ("*/*.jpg", "has neither {camera} nor {captured_at"),
        ("{cam}/*", "{cam} is unknown; the fields are {camera} and {captured_at"),
        ("{}/*", "{} is unknown"),
        ("{camera!r}/*", "{camera} is unknown"),
        ("{camera/*", "expected '}' before end of string; write {{ and }} for braces that are text"),
        ("{camera:d}/*", "{camera} takes no format"),
        ("{camera}*", "{camera} stands next to *, so nothing says where it ends"),
        ("*{camera}/*", "{camera} stands next to *"),
        ("{camera}{camera}", "{camera} stands next to {camera}"),
        ("{camera}/**/*.jpg", "begin the pattern with the folder above"),
        ("{captured_at:%Y%m%d_%Q}", "%Q in {captured_at:%Y%m%d_%Q} is unknown; known are %Y"),
        ("{captured_at:%H%M%S}", "has no whole date, only %H %M %S; give year, month and day"),
        ("{captured_at:%Y%m%d}/{captured_at:%Y%m%d%H}", "%Y occurs twice; write * for one of them"),
        ("{captured_at}/{captured_at:%H}", "can't be combined with another"),
        ("{captured_at:%s%H}", "%s is a whole time"),
        ("{captured_at:%Y%m%d%I}", "%I is an hour of 12 and needs %p"),
        (r"(?P<camera>[a-z)", "is no regular expression: unterminated character set"),
        (
            r"(?P<shop>\d)/(?P<camera>\d)",
            "the group 'shop' is unknown; the groups are camera and captured_at",
        ),
    ],
)
def test_a_wrong_pattern_is_refused_with_the_remedy(pattern: str, problem: str):
    with pytest.raises(ValueError, match=re.escape(problem)):
        compile_pattern(pattern)


def test_a_local_time_is_stored_in_utc_in_winter_and_in_summer():
    assert read(USUAL, "till/20240501_120000.jpg", "Europe/Berlin") == KeyFacts("till", AT_TEN)
    winter = read(USUAL, "till/20240101_120000.jpg", "Europe/Berlin")
    assert winter == KeyFacts("till", datetime(2024, 1, 1, 11, tzinfo=UTC))
    # A path that names its own offset is not read in the zone.
    own = read("{captured_at:%Y%m%dT%H%M%S%z}", "20240501T120000+0200.jpg", "America/New_York")
    assert own == KeyFacts(None, AT_TEN)
    assert read("{captured_at:%s}", "1714557600.jpg", "Asia/Tokyo") == KeyFacts(None, AT_TEN)


def test_an_hour_that_occurs_twice_is_taken_as_the_first_and_noted():
    found = read(USUAL, "till/20241027_023000.jpg", "Europe/Berlin")
    assert found.captured_at == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert "2024-10-27 02:30:00 occurs twice in Europe/Berlin" in found.note
    assert read(USUAL, "till/20241027_030000.jpg", "Europe/Berlin").note is None


def test_an_hour_that_does_not_occur_is_that_of_a_clock_that_was_not_set_and_noted():
    found = read(USUAL, "till/20240331_023000.jpg", "Europe/Berlin")
    assert found.captured_at == datetime(2024, 3, 31, 1, 30, tzinfo=UTC)
    assert "2024-03-31 02:30:00 doesn't occur in Europe/Berlin" in found.note
    assert read(USUAL, "till/20240331_030000.jpg", "Europe/Berlin").note is None


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
def test_times_in_utc_come_back_from_local_ones_except_where_clocks_change(zone: str):
    doubtful = 0
    for step in range(366 * 48):
        moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=30 * step)
        local = moment.astimezone(ZoneInfo(zone))
        found, note = in_utc(local.replace(tzinfo=None), zone)
        if note is None:
            assert found == moment
        else:
            doubtful += 1
            assert found == (moment if not local.fold else local.replace(fold=0).astimezone(UTC))
    # An hour that occurs twice is passed twice; Lord Howe sets its clocks by half an hour.
    assert doubtful == {"Asia/Kolkata": 0, "Australia/Lord_Howe": 2}.get(zone, 4)
