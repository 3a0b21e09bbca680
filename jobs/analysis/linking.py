"""Recognise people from one frame of a camera to the next, by box and appearance.

Between two frames everybody who was seen lately is assigned to somebody who is seen now, at the least cost in
all (the Hungarian method as `scipy.optimize.linear_sum_assignment` has it). The cost is the distance of the
feet in heights of the person, how much the heights differ, and the share of attributes that differ.

Whoever walks covers several heights in a few seconds, and anybody else may then stand nearer. So walkers are
linked only at two frames a second and more; at lower rates only those who stay where they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from jobs.analysis.observations import Observations, quoted

WALKERS_S = 0.5
"""Longest time between frames at which walkers can be linked."""

STANDS = 0.25
"""How far the feet of somebody who stands move between frames, in heights: 0.4 m, by sway and by the box."""

_PACE = 1.2
"""Heights that a fast walker covers in a second: 2 m."""
_WALKS_S = 1.0
"""Longest time over which the way of a walker is followed, so that one missed frame doesn't break it."""
_SIZES = float(np.log(1.35))
"""Logarithm of the ratio of two heights that one person may have in two frames."""
_MOST_COST = 1.8
_LOOK = 2.0
"""Weight of appearance: somebody in the same place of whom every attribute differs is somebody else."""
_LOOK_NEAR = 0.5
"""The same at two frames a second and more, where the place says nearly all, and answers may be wrong."""
_EDGE = 0.08
"""Share of the frame at its edges within which somebody comes into view."""
_SLACK_S = 0.01
_NEVER = 1e6


@dataclass(slots=True)
class Track:
    """One person in the frames of a camera.

    Attributes:
        times: Seconds since the epoch.
        feet: Places of the feet, x in frame heights and y in shares of the height.
        heights: Heights of the boxes, in shares of the frame's height.
        seen_as: For each attribute, how often each code was seen.
        from_edge: Whether it began at the edge of the frame, or with the first frame after a gap.
        cut: Whether it was there at the first or the last frame beside a gap, so that more may be missing.
    """

    times: list[float]
    feet: list[tuple[float, float]]
    heights: list[float]
    seen_as: list[Counter[int]]
    from_edge: bool
    cut: bool

    @property
    def look(self) -> list[int]:
        """The most frequent code of each attribute, so that a wrong answer doesn't count; -1 without any."""
        return [max(codes, key=codes.__getitem__) if codes else -1 for codes in self.seen_as]

    def add(self, at: float, feet: np.ndarray, height: float, look: np.ndarray) -> None:
        """Add the person as seen in one more frame."""
        self.times.append(at)
        self.feet.append((float(feet[0]), float(feet[1])))
        self.heights.append(height)
        for codes, code in zip(self.seen_as, look.tolist(), strict=True):
            if code >= 0:
                codes[code] += 1

    @property
    def moves(self) -> bool:
        """Whether the person walked when last seen."""
        if len(self.times) < 2:
            return False
        (x, y), (to_x, to_y) = self.feet[-2:]
        return bool(np.hypot(to_x - x, to_y - y) > STANDS * self.heights[-1])

    def expected(self, at: float) -> tuple[float, float]:
        """Return where the feet are expected at a time, if the person goes on as before."""
        x, y = self.feet[-1]
        if not self.moves or at - self.times[-1] > _WALKS_S:
            return x, y
        before_x, before_y = self.feet[-2]
        share = (at - self.times[-1]) / (self.times[-1] - self.times[-2])
        return x + (x - before_x) * share, y + (y - before_y) * share


@dataclass(frozen=True, slots=True)
class CameraLinks:
    """The tracks of one camera.

    Attributes:
        camera: The camera.
        interval_s: Median time between its frames, or None if no two are within the longest link.
        follows_walkers: Whether its frames are close enough together to link people who walk.
        people: Number of detections.
        linked: Detections that were linked to another one.
        tracks: All tracks, those of a single detection included.
    """

    camera: str
    interval_s: float | None
    follows_walkers: bool
    people: int = 0
    linked: int = 0
    tracks: list[Track] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The people of one frame: (n, 2) feet, (n,) heights, (n, attributes) codes, (n,) at the edge."""

    at: float
    feet: np.ndarray
    heights: np.ndarray
    looks: np.ndarray
    at_edge: np.ndarray


def link_people(seen: Observations, attributes: Sequence[str], max_link_s: float) -> Iterator[CameraLinks]:
    """Yield the tracks of each camera.

    Args:
        seen: The frames and people.
        attributes: Attributes that appearance is compared by.
        max_link_s: Longest time between two frames over which somebody may be recognised.
    """
    for camera in seen.cameras():
        (interval,) = seen.database.execute(
            "SELECT median(gap_s) FROM frames WHERE camera = ? AND gap_s <= ?", [camera, max_link_s]
        ).fetchall()[0]
        if interval is None:
            yield CameraLinks(camera, None, False)
            continue
        linker = _Linker(max_link_s, interval <= WALKERS_S + _SLACK_S)
        for frame in _frames(seen, camera, attributes):
            linker.add(frame)
        tracks = linker.finish()
        yield CameraLinks(
            camera,
            interval,
            linker.follows_walkers,
            people=sum(len(track.times) for track in tracks),
            linked=sum(len(track.times) for track in tracks if len(track.times) > 1),
            tracks=tracks,
        )


class _Linker:
    def __init__(self, max_link_s: float, follows_walkers: bool) -> None:
        self.follows_walkers = follows_walkers
        self._max_link_s = max_link_s
        self._active: list[Track] = []
        self._done: list[Track] = []
        self._last: float | None = None

    def add(self, now: _Seen) -> None:
        starts = self._last is None or now.at - self._last > self._max_link_s
        if starts:
            self._end_run()
        self._retire(now.at)
        taken = set()
        for track, person in self._assign(now):
            taken.add(person)
            track.add(now.at, now.feet[person], float(now.heights[person]), now.looks[person])
        for person in range(len(now.heights)):
            if person not in taken:
                unknown = [Counter[int]() for _ in now.looks[person]]
                track = Track([], [], [], unknown, starts or bool(now.at_edge[person]), cut=starts)
                track.add(now.at, now.feet[person], float(now.heights[person]), now.looks[person])
                self._active.append(track)
        self._last = now.at

    def finish(self) -> list[Track]:
        self._end_run()
        return self._done

    def _end_run(self) -> None:
        for track in self._active:
            track.cut = track.cut or track.times[-1] == self._last
        self._done += self._active
        self._active = []

    def _retire(self, at: float) -> None:
        """Give up those who were last seen too long ago: walkers sooner than those who stood."""
        left: list[Track] = []
        for track in self._active:
            longest = _WALKS_S if self.follows_walkers and track.moves else self._max_link_s
            (left if at - track.times[-1] <= longest + _SLACK_S else self._done).append(track)
        self._active = left

    def _assign(self, now: _Seen) -> list[tuple[Track, int]]:
        if not self._active or not len(now.heights):
            return []
        ages = np.array([now.at - track.times[-1] for track in self._active])
        expected = np.array([track.expected(now.at) for track in self._active])
        heights = np.array([track.heights[-1] for track in self._active])
        looks = np.array([track.look for track in self._active]).reshape(len(ages), -1)
        apart = np.linalg.norm(expected[:, None] - now.feet[None], axis=2) / heights[:, None]
        gates = np.full(len(ages), STANDS)
        if self.follows_walkers:
            gates = np.where(ages <= _WALKS_S + _SLACK_S, STANDS + _PACE * ages, gates)
        sizes = np.abs(np.log(heights[:, None] / now.heights[None]))
        both = (looks[:, None] >= 0) & (now.looks[None] >= 0)
        differ = (both & (looks[:, None] != now.looks[None])).sum(axis=2) / np.maximum(both.sum(axis=2), 1)
        weight = _LOOK_NEAR if self.follows_walkers else _LOOK
        cost = apart / gates[:, None] + sizes / _SIZES + weight * differ
        possible = (apart <= gates[:, None]) & (sizes <= _SIZES) & (cost <= _MOST_COST)
        rows, columns = linear_sum_assignment(np.where(possible, cost, _NEVER))
        return [
            (self._active[row], int(column))
            for row, column in zip(rows, columns, strict=True)
            if possible[row, column]
        ]


def _frames(seen: Observations, camera: str, attributes: Sequence[str]) -> Iterator[_Seen]:
    """Yield the frames of a camera with their people, without staff, in the order of time."""
    codes = "".join(f", coalesce(hash({quoted(name)}) % 1000000, -1)::INTEGER" for name in attributes)
    customers = "(SELECT * FROM people WHERE NOT staff) AS customers"
    found = seen.database.execute(
        f"SELECT frame, moment, aspect, x1, y1, x2, y2{codes} "
        f"FROM frames LEFT JOIN {customers} USING (frame) "
        "WHERE camera = ? ORDER BY frame, person",
        [camera],
    )
    rows: Iterator[list[Any]] = iter(lambda: found.fetchmany(10_000), [])
    everybody = (row for some in rows for row in some)
    for _, group in groupby(everybody, key=itemgetter(0)):
        yield _seen(list(group), len(attributes))


def _seen(rows: list[tuple[Any, ...]], attributes: int) -> _Seen:
    at, aspect = rows[0][1], rows[0][2] or 16 / 9
    if rows[0][3] is None:
        rows = []
    boxes = np.array([row[3:7] for row in rows], float).reshape(-1, 4)
    x1, y1, x2, y2 = boxes.T
    edge = (x1 <= _EDGE) | (x2 >= 1 - _EDGE) | (y2 >= 1 - _EDGE / 4) | (y1 <= _EDGE / 4)
    return _Seen(
        at,
        np.stack([(x1 + x2) / 2 * aspect, y2], 1),
        np.maximum(y2 - y1, 1e-6),
        np.array([row[7:] for row in rows], np.int64).reshape(len(boxes), attributes),
        edge,
    )
