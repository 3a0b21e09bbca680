"""Occupancy, person-seconds by zone, queues and hours, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.analysis.observations import TIME_COLUMNS, Observations, text
from jobs.analysis.shop import WEEKDAYS, Shop

BY = ("camera", "zone", *TIME_COLUMNS)
"""Columns that figures can be grouped by."""

_CELL = """
    count(*) AS frames, sum(seconds) AS observed_s,
    sum({persons} * seconds) AS person_seconds,
    CASE WHEN sum(seconds) > 0 THEN sum({persons} * seconds) / sum(seconds)
        ELSE avg({persons}) END AS occupancy,
    max({persons}) AS most
"""
"""Columns of a group of frames of one camera. Where no time was observed, all frames weigh the same."""
_SUM = """
    sum(frames)::BIGINT AS frames, sum(observed_s) AS observed_s, sum(person_seconds) AS person_seconds,
    sum(occupancy) AS occupancy, max(most)::INTEGER AS most_in_a_frame
"""
MIN_HOUR_S = 1800
"""Seconds for which each camera must have been observed in an hour of the day, for it to be compared."""
MIN_HOUR_FRAMES = 30
"""The same in frames, where frames are so far apart that nothing is observed between them."""
_RANKS = 3
_STEPS_S = (60, 300, 900, 3600, 4 * 3600, 86400)
_MOST_STEPS = 168
"""Steps of a course, such as the hours of a week."""
_WEEKDAY_ORDER = f"array_position({list(WEEKDAYS)}, weekday)"


@dataclass(frozen=True, slots=True)
class Queue:
    """How long the queue at a till is, as one camera sees it, over the time or else over the frames.

    Attributes:
        zone: The till.
        camera: The camera.
        mean: Mean number of people.
        median: The length that is not exceeded half of the time.
        p90: The length that is not exceeded nine tenths of the time.
        longest: The longest.
        empty: Share of the time without anybody.
    """

    zone: str
    camera: str
    mean: float
    median: int
    p90: int
    longest: int
    empty: float


def occupancy(seen: Observations, shop: Shop, by: Sequence[str]) -> pa.Table:
    """Return how many people there are at once, by the columns of `by` that frames have.

    The columns are those of `by`, `frames`, `observed_s`, `person_seconds`, `occupancy` (mean number of
    people) and `most_in_a_frame`. Without `camera` in `by`, cameras are summed, and those that see the
    same place count once.
    """
    group = [name for name in by if name != "zone"]
    cells = f"SELECT {listed(['camera', *_times(group)])} {_CELL.format(persons='persons')} FROM frames"
    cells += f" WHERE {within('camera', shop.counted(seen.cameras()))}" if "camera" not in group else ""
    cells += f" GROUP BY {', '.join(['camera', *_times(group)])}"
    return seen.rows(f"SELECT {listed(group)} {_SUM} FROM ({cells}) {_grouped(group)}")


def by_zone(seen: Observations, shop: Shop, by: Sequence[str]) -> pa.Table:
    """Return how many people are in each zone, in the columns of `occupancy` after `zone` and `kind`."""
    group = ["zone", "kind", *(name for name in by if name != "zone")]
    inner = ["zone", "kind", "camera", *_times(group)]
    cells = (
        f"SELECT {listed(inner)} {_CELL.format(persons='coalesce(presence.persons, 0)')} "
        "FROM frames JOIN zones USING (camera) LEFT JOIN presence USING (frame, zone)"
    )
    if "camera" not in by:
        cells += f" WHERE {counted_sights(seen, shop)}"
    cells += f" GROUP BY {', '.join(inner)}"
    return seen.rows(f"SELECT {listed(group)} {_SUM} FROM ({cells}) {_grouped(group)}")


def queue_lengths(seen: Observations, shop: Shop) -> pa.Table:
    """Return the distribution of the number of people in each till zone.

    The columns are `zone`, `camera`, `length`, `frames`, `seconds` and `share` (of the time, or of the
    frames where no time was observed).
    """
    return seen.rows(
        f"""
        WITH lengths AS (
            SELECT zone, camera, coalesce(presence.persons, 0) AS length,
                count(*) AS frames, sum(seconds) AS seconds
            FROM frames JOIN zones USING (camera) LEFT JOIN presence USING (frame, zone)
            WHERE kind = 'till' AND {counted_sights(seen, shop)}
            GROUP BY ALL
        )
        SELECT *, CASE WHEN sum(seconds) OVER till > 0 THEN seconds / sum(seconds) OVER till
            ELSE frames / sum(frames) OVER till END AS share
        FROM lengths WINDOW till AS (PARTITION BY zone, camera) ORDER BY zone, camera, length
        """
    )


def queues(lengths: pa.Table) -> list[Queue]:
    """Return the figures of each distribution of `queue_lengths`."""
    by_till: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in lengths.to_pylist():
        by_till.setdefault((row["zone"], row["camera"]), []).append((row["length"], row["share"]))
    return [
        Queue(
            zone=zone,
            camera=camera,
            mean=sum(length * share for length, share in found),
            median=_quantile(found, 0.5),
            p90=_quantile(found, 0.9),
            longest=found[-1][0],
            empty=sum(share for length, share in found if not length),
        )
        for (zone, camera), found in by_till.items()
    ]


def hours(seen: Observations, shop: Shop) -> pa.Table:
    """Return the occupancy of the whole shop by hour of the day, with `rank`, 1 for the busiest.

    Hours that are too little observed to be compared have no rank: see `MIN_HOUR_S`.
    """
    found = occupancy(seen, shop, ["hour"])
    cameras = shop.counted(seen.cameras())
    least = seen.rows(
        f"""
        SELECT hour FROM (
            SELECT hour, sum(seconds) AS seconds, count(*) AS frames
            FROM frames WHERE {within("camera", cameras)} GROUP BY hour, camera
        ) GROUP BY hour HAVING count(*) = {len(cameras)} AND min(
            CASE WHEN seconds > 0 THEN seconds / {MIN_HOUR_S} ELSE frames / {MIN_HOUR_FRAMES} END
        ) >= 1
        """
    )
    compared = set(least["hour"].to_pylist())
    rows = [(row["hour"] in compared, row["occupancy"]) for row in found.to_pylist()]
    ranks = [
        1 + sum(other > value for is_ranked, other in rows if is_ranked) if is_compared else None
        for is_compared, value in rows
    ]
    return found.append_column("rank", pa.array(ranks, pa.int32()))


def course(seen: Observations, interval_s: float | None) -> tuple[pa.Table, int]:
    """Return the occupancy of each camera from step to step, and the length of a step in seconds.

    A step is the shortest of some usual lengths that give not too many steps, and steps with frames in them.
    The columns are `camera`, `began_at` (local time), `frames`, `observed_s`, `person_seconds` and
    `occupancy`. Steps without frames have no row.

    Args:
        seen: The frames.
        interval_s: Typical time between two frames of a camera, if it is known.
    """
    (span,) = seen.one("SELECT coalesce(max(moment) - min(moment), 0) FROM frames")
    least = max(span / _MOST_STEPS, 2 * (interval_s or 0))
    step_s = next((step for step in _STEPS_S if step >= least), _STEPS_S[-1])
    table = seen.rows(
        f"""
        SELECT camera, time_bucket(INTERVAL '{step_s} seconds', shop_time) AS began_at, count(*) AS frames,
            sum(seconds) AS observed_s, sum(persons * seconds) AS person_seconds,
            CASE WHEN sum(seconds) > 0 THEN sum(persons * seconds) / sum(seconds)
                ELSE avg(persons) END AS occupancy
        FROM frames GROUP BY ALL ORDER BY ALL
        """
    )
    return table, step_s


@dataclass(frozen=True, slots=True)
class Peaks:
    """The busiest and the quietest hours of the day, as rows of `hours`, or why there are none."""

    busiest: list[dict[str, Any]]
    quietest: list[dict[str, Any]]
    unknown: str | None


def peaks(table: pa.Table) -> Peaks:
    """Return at most three busiest and three quietest hours of `hours`, of those that have a rank.

    No hour is both, so two hours have one of each, and a single hour is neither.
    """
    ranked = [row for row in table.to_pylist() if row["rank"] is not None]
    rows = sorted(ranked, key=lambda row: (-row["occupancy"], row["hour"]))
    if len(rows) > 1:
        number = min(_RANKS, len(rows) // 2)
        return Peaks(rows[:number], rows[-number:][::-1], None)
    return Peaks(
        [],
        [],
        "There are no busiest and no quietest hours: that takes at least two hours of the day, in each of "
        f"which each camera was observed for {MIN_HOUR_S // 60} minutes, on one day or on several.",
    )


def _quantile(found: Sequence[tuple[int, float]], at: float) -> int:
    """Return the least length that is not exceeded in a share `at` of the time."""
    reached = 0.0
    for length, share in found:
        reached += share
        # A sum of shares may miss the mark by rounding.
        if reached >= at - 1e-9:
            return length
    return found[-1][0]


def counted_sights(seen: Observations, shop: Shop, zone: str = "zone") -> str:
    """Return the condition that a camera counts where the cameras of a zone are summed, as SQL."""
    by_zone: dict[str, list[str]] = {}
    for name, camera in seen.database.execute("SELECT zone, camera FROM zones ORDER BY ALL").fetchall():
        by_zone.setdefault(name, []).append(camera)
    parts = [
        f"({zone} = {text(name)} AND {within('camera', shop.counted(cameras))})"
        for name, cameras in by_zone.items()
    ]
    return f"({' OR '.join(parts)})" if parts else "false"


def _times(by: Sequence[str]) -> list[str]:
    return [name for name in by if name in TIME_COLUMNS]


def listed(names: Sequence[str]) -> str:
    """Return columns before others as SQL."""
    return "".join(f"{name}, " for name in names)


def _grouped(names: Sequence[str]) -> str:
    if not names:
        return ""
    order = ", ".join(_WEEKDAY_ORDER if name == "weekday" else name for name in names)
    return f"GROUP BY {', '.join(names)} ORDER BY {order}"


def within(column: str, values: Sequence[str]) -> str:
    """Return the condition that a column has one of some values, as SQL."""
    return f"{column} IN ({', '.join(map(text, values))})" if values else "false"
