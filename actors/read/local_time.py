"""Times of day as a clock in a shop shows them, in UTC."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones


@lru_cache(maxsize=64)
def time_zone(name: str) -> ZoneInfo:
    """Return the time zone with an IANA name, such as Europe/Berlin.

    Raises:
        ValueError: There is no such zone. The message names the remedy.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # Listing all zones takes longer than finding one, so it is left to the error.
        known = available_timezones()
    close = difflib.get_close_matches(name, known, n=1) or [z for z in known if z.endswith(f"/{name}")]
    remedy = f"did you mean {min(close)}?" if close else "write an IANA name, such as Europe/Berlin"
    raise ValueError(f"no time zone is called {name!r}; {remedy}")


def in_utc(time: datetime, zone: str) -> tuple[datetime, str | None]:
    """Return a time in UTC, and a note if the zone's clock doesn't decide which time it is.

    Where clocks are set back, an hour occurs twice, and a time in it is taken as the first. Where they are
    set forward, an hour doesn't occur, and a time in it is that of a clock that was not set forward yet.

    Args:
        time: Any time. One with a time zone of its own is converted, whatever `zone` is.
        zone: IANA name of the time zone of other times.

    Raises:
        OverflowError: The time is outside of the years 1 to 9999 in UTC.
    """
    if time.tzinfo is not None:
        return time.astimezone(UTC), None
    local = time.replace(tzinfo=time_zone(zone), fold=0)
    moment = local.astimezone(UTC)
    if local.utcoffset() == local.replace(fold=1).utcoffset():
        return moment, None
    if moment.astimezone(local.tzinfo).replace(tzinfo=None) == time.replace(fold=0):
        return moment, f"{time} occurs twice in {zone}, where clocks are set back; taken as the first"
    return moment, (
        f"{time} doesn't occur in {zone}, where clocks are set forward; taken as before they were set"
    )
