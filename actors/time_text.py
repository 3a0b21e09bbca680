"""The one notation of durations and points in time in messages: `3 h 20 min` and `2026-01-31 08:00 UTC`."""

from __future__ import annotations

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """Return a duration in one or two units, such as "45 s", "12 min", "3 h 20 min" or "2 d 4 h"."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(hours + minutes / 60), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def moment(time: datetime | float | str) -> str:
    """Return a point in time in UTC, to the minute.

    Args:
        time: A datetime with a time zone, seconds since the epoch, or ISO 8601 text with a time zone.
    """
    if isinstance(time, str):
        when = datetime.fromisoformat(time).astimezone(UTC)
    else:
        when = time.astimezone(UTC) if isinstance(time, datetime) else datetime.fromtimestamp(time, UTC)
    return when.strftime("%Y-%m-%d %H:%M UTC")
