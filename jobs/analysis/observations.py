"""The frames and people of an output as tables of a database, with what each frame stands for.

A frame stands for half of the time to the frame before it and half of the time to the one after it, if these
are at most `max_gap_s` away. A count that is weighted by these seconds and summed is the integral of the
count by the trapezoidal rule, so all figures are sums over frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import time
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa

from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.analysis.shop import WEEKDAYS, Shop, ShopZone
from jobs.exchange.selection import consolidated

_BATCH_ROWS = 200_000
_CORNERS = ("x1", "y1", "x2", "y2")

TIME_COLUMNS = ("date", "weekday", "hour")
"""Columns of a frame that figures can be grouped by, beside its camera. They are in the shop's time."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the figures rest on.

    Attributes:
        frames: Frames that count.
        failed: Frames that failed.
        without_time: Frames without a time.
        closed: Frames outside the opening hours.
        persons: People in the frames that count, without staff.
        staff: People in staff zones.
        observed_s: Camera-seconds that the frames stand for.
        left_out_s: Camera-seconds in gaps that are too long.
        gaps: Number of such gaps.
        began_at, ended_at: Local time of the first and the last frame, ISO 8601.
        typical_interval_s: Median time between two frames of a camera, over all gaps that count.
    """

    frames: int
    failed: int
    without_time: int
    closed: int
    persons: int
    staff: int
    observed_s: float
    left_out_s: float
    gaps: int
    began_at: str | None
    ended_at: str | None
    typical_interval_s: float | None


class Observations:
    """The tables `frames`, `detections`, `people`, `presence`, `memberships` and `zones` of a database.

    frames    frame, shard_id, frame_key, camera ('' if it has none), shop_time (local), moment (seconds since
              the epoch), date, weekday, hour, seconds (that it stands for), left_out_s (of the gap before
              it), gap_s (before it, if it counts), empty (nothing was detected), aspect (width / height),
              persons (without staff)
    detections  person, frame, person_index, x1, y1, x2, y2, is_person, staff, and the final value and source
              of each attribute
    people    those of the detections whom no reviewer has called no person
    presence  frame, zone, persons: only zones with people in them
    memberships  person, zone, kind: detections in zones
    zones     zone, kind, camera: cameras that see a zone, whether or not anybody was there
    """

    def __init__(self, database: duckdb.DuckDBPyConnection, shop: Shop, max_gap_s: float) -> None:
        self.database = database
        self._shop = shop
        self._max_gap_s = max_gap_s

    @classmethod
    @contextmanager
    def of(
        cls, store: ObjectStore, shop: Shop, max_gap_s: float, attributes: Sequence[str]
    ) -> Iterator[Observations]:
        """Make the tables of an output.

        Args:
            store: The output.
            shop: What is known about the shop.
            max_gap_s: Longest time between two frames that counts as observed.
            attributes: Names of the attributes that are wanted.

        Raises:
            ConfigError: The output has no consolidated tables.
        """
        frames = consolidated(store, layout.CONSOLIDATED_FRAMES)
        persons = consolidated(store)
        with duckdb.connect() as database:
            database.register("all_frames", frames)
            database.register("all_persons", persons)
            known = [name for name in attributes if name in persons.schema.names]
            yield cls.over(database, shop, max_gap_s, known)

    @classmethod
    def over(
        cls, database: duckdb.DuckDBPyConnection, shop: Shop, max_gap_s: float, attributes: Sequence[str]
    ) -> Self:
        """Make the tables in a database that has the consolidated ones as `all_frames` and `all_persons`."""
        made = cls(database, shop, max_gap_s)
        made._make_frames()
        made._make_people(attributes)
        made._make_zones()
        return made

    def rows(self, sql: str) -> pa.Table:
        """Return the result of a query as an Arrow table."""
        return self.database.sql(sql).to_arrow_table()

    def one(self, sql: str) -> tuple[Any, ...]:
        """Return the only row of a query."""
        (row,) = self.database.execute(sql).fetchall()
        return tuple(row)

    def has(self, attribute: str) -> bool:
        """Return whether the people have an attribute."""
        found = self.database.execute("SELECT column_name FROM (DESCRIBE detections)").fetchall()
        return (attribute,) in found

    def coverage(self) -> Coverage:
        """Return what the figures rest on."""
        failed, without_time, closed = self.one(
            "SELECT count(*) FILTER (status <> 'ok'), "
            "count(*) FILTER (status = 'ok' AND captured_at IS NULL), "
            f"count(*) FILTER (status = 'ok' AND captured_at IS NOT NULL AND NOT ({self._is_open()})) "
            f"FROM (SELECT status, captured_at, {self._local()} AS shop_time FROM all_frames)"
        )
        frames, persons, observed, left_out, gaps, began, ended, typical = self.one(
            "SELECT count(*), coalesce(sum(persons), 0)::BIGINT, coalesce(sum(seconds), 0), "
            "coalesce(sum(left_out_s), 0), count(*) FILTER (left_out_s > 0), "
            "strftime(min(shop_time), '%Y-%m-%dT%H:%M:%S'), strftime(max(shop_time), '%Y-%m-%dT%H:%M:%S'), "
            "median(gap_s) "
            "FROM frames"
        )
        (staff,) = self.one("SELECT count(*) FROM people WHERE staff")
        return Coverage(
            frames,
            failed,
            without_time,
            closed,
            persons,
            staff,
            observed,
            left_out,
            gaps,
            began,
            ended,
            typical,
        )

    def cameras(self) -> list[str]:
        """Return the cameras in the order of their names; '' stands for frames that name none."""
        found = self.database.execute("SELECT DISTINCT camera FROM frames ORDER BY camera").fetchall()
        return [camera for (camera,) in found]

    def _local(self) -> str:
        return f"(captured_at AT TIME ZONE {text(self._shop.timezone)})"

    def _is_open(self) -> str:
        """Return whether `shop_time` is within the opening hours, as SQL."""
        if not self._shop.opening_hours:
            return "true"
        parts = []
        for day, hours in self._shop.opening_hours.items():
            for one in hours:
                until = f" AND shop_time::TIME < TIME '{one.closes}'" if one.closes != time(0) else ""
                parts.append(
                    f"(isodow(shop_time) = {WEEKDAYS.index(day) + 1} "
                    f"AND shop_time::TIME >= TIME '{one.opens}'{until})"
                )
        return " OR ".join(parts) or "false"

    def _make_frames(self) -> None:
        days = ", ".join(f"'{day}'" for day in WEEKDAYS)
        self.database.execute(
            f"""
            CREATE TEMP TABLE frames AS
            WITH counted AS (
                SELECT shard_id, frame_key, coalesce(camera, '') AS camera, captured_at,
                    detected = 0 AS empty, width / height AS aspect,
                    {self._local()} AS shop_time
                FROM all_frames WHERE status = 'ok' AND captured_at IS NOT NULL
            ), timed AS (
                SELECT *, epoch(captured_at) AS moment,
                    epoch(captured_at) - epoch(lag(captured_at) OVER line) AS before
                FROM counted WHERE {self._is_open()}
                WINDOW line AS (PARTITION BY camera ORDER BY captured_at, shard_id, frame_key)
            ), spaced AS (
                SELECT *,
                    lead(before) OVER (PARTITION BY camera ORDER BY captured_at, shard_id, frame_key) AS after
                FROM timed
            )
            SELECT row_number() OVER (ORDER BY camera, captured_at, shard_id, frame_key) AS frame,
                shard_id, frame_key, camera, shop_time, moment,
                strftime(shop_time, '%Y-%m-%d') AS date,
                [{days}][isodow(shop_time)] AS weekday, hour(shop_time)::INTEGER AS hour,
                (CASE WHEN before <= $gap THEN before ELSE 0 END
                    + CASE WHEN after <= $gap THEN after ELSE 0 END) / 2 AS seconds,
                CASE WHEN before > $gap THEN before ELSE 0 END AS left_out_s,
                CASE WHEN before <= $gap THEN before END AS gap_s,
                empty, aspect, 0 AS persons
            FROM spaced
            """,
            {"gap": self._max_gap_s},
        )

    def _make_people(self, attributes: Sequence[str]) -> None:
        corners = ", ".join(
            f"coalesce(corrected_bbox, bbox)[{place}] AS {name}" for place, name in enumerate(_CORNERS, 1)
        )
        values = "".join(f", {quoted(column)}" for name in attributes for column in (name, f"{name}_source"))
        self.database.execute(
            "CREATE TEMP TABLE detections AS "
            "SELECT row_number() OVER (ORDER BY frame, person_index) AS person, "
            f"frame, person_index, {corners}, is_person, false AS staff{values} "
            "FROM all_persons JOIN frames USING (shard_id, frame_key)"
        )
        self.database.execute("CREATE TEMP VIEW people AS SELECT * FROM detections WHERE is_person")

    def _members(self) -> pa.Table:
        """Return the pairs of `person` and `zone`, the number of a zone of the file that has the person."""
        persons, places = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
        if self._shop.zones:
            reader = self.database.sql(
                "SELECT person, camera, x1, y1, x2, y2 FROM detections JOIN frames USING (frame) "
                "ORDER BY person"
            ).to_arrow_reader(_BATCH_ROWS)
            for batch in reader:
                numbers = np.asarray(batch["person"])
                cameras = np.array(batch["camera"].to_pylist(), object)
                boxes = np.stack([np.asarray(batch[name], np.float64) for name in _CORNERS], 1)
                for place, zone in enumerate(self._shop.zones):
                    rows = np.flatnonzero((cameras == zone.camera) | (zone.camera == "*"))
                    if rows.size:
                        rows = rows[zone.contains(boxes[rows])]
                        persons.append(numbers[rows])
                        places.append(np.full(len(rows), place, np.int32))
        return pa.table({"person": np.concatenate(persons), "zone": np.concatenate(places)})

    def _make_zones(self) -> None:
        """Find out who is in which zone, and count the people of each frame."""
        zones = self._shop.zones
        members = self._members()
        names = pa.table(
            {
                "zone": pa.array(range(len(zones)), pa.int32()),
                "name": pa.array([zone.name for zone in zones], pa.string()),
                "kind": pa.array([zone.kind for zone in zones], pa.string()),
            }
        )
        seen = [pair for camera in self.cameras() for zone in zones if (pair := _seen_by(zone, camera))]
        sights = pa.table(
            {
                column: pa.array([pair[place] for pair in seen], pa.string())
                for place, column in enumerate(("zone", "kind", "camera"))
            }
        )
        for name, table in (("members", members), ("names", names), ("sights", sights)):
            self.database.register(name, table)
        # A zone of several polygons has a person once.
        self.database.execute(
            """
            CREATE TEMP TABLE memberships AS
                SELECT DISTINCT person, names.name AS zone, kind
                FROM members JOIN names ON names.zone = members.zone;
            CREATE TEMP TABLE zones AS SELECT DISTINCT zone, kind, camera FROM sights;
            UPDATE detections SET staff = true
                WHERE person IN (SELECT person FROM memberships WHERE kind = 'staff');
            CREATE TEMP TABLE presence AS
                SELECT frame, zone, count(*)::INTEGER AS persons
                FROM memberships JOIN people USING (person)
                WHERE kind = 'staff' OR NOT staff GROUP BY frame, zone;
            UPDATE frames SET persons = counted.n FROM (
                SELECT frame, count(*)::INTEGER AS n FROM people WHERE NOT staff GROUP BY frame
            ) AS counted WHERE counted.frame = frames.frame;
            """
        )
        for name in ("members", "names", "sights"):
            self.database.unregister(name)


def quoted(name: str) -> str:
    """Return the name of a column as SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a text as SQL."""
    return "'" + value.replace("'", "''") + "'"


def _seen_by(zone: ShopZone, camera: str) -> tuple[str, str, str] | None:
    return (zone.name, zone.kind, camera) if zone.camera in ("*", camera) else None
