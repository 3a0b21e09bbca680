"""Simulated people who walk through a shop, stop and leave, with the whole track of each.

A track is what nobody knows of real people: where they were at every moment. What an analysis says about
frames can be compared with it. There are no pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

HEIGHT = 0.4
"""Height of a person's box, as a share of the frame's height."""
_WIDTH = 0.1
_PACE = 0.11
"""Shares of the frame's width that a walker covers in a second: 1.2 m/s where 0.4 of the height is 1.7 m."""
_SWAY = 0.004
"""Standard deviation of a standing person's place between frames, as a share of the frame."""

TILL = (0.6, 0.7, 0.9, 1.0)
SHELF = (0.1, 0.5, 0.4, 0.7)
_WALL = (0.15, 0.85, 0.45, 0.95)
"""Places where people stop: left, top, right and bottom of their feet."""

GENDERS = ("male", "female")
AGES = ("18 to 28", "28 to 38", "48 to 58")


@dataclass(frozen=True, slots=True)
class Stop:
    """A time in seconds during which somebody stands at a place, in shares of the frame."""

    began_s: float
    ended_s: float
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Track:
    """One visit.

    Attributes:
        began_s: When the person comes into view.
        ended_s: When the person leaves it.
        stops: Where and when the person stands, in the order of time.
        gender: Apparent gender.
        age_group: Apparent age.
        times, xs, ys: Corners of the way of the feet, which is straight between them.
    """

    began_s: float
    ended_s: float
    stops: tuple[Stop, ...]
    gender: str
    age_group: str
    times: tuple[float, ...]
    xs: tuple[float, ...]
    ys: tuple[float, ...]

    def foot(self, at_s: float) -> tuple[float, float] | None:
        """Return where the feet are, in shares of the frame, or None before and after the visit."""
        if not self.began_s <= at_s < self.ended_s:
            return None
        return float(np.interp(at_s, self.times, self.xs)), float(np.interp(at_s, self.times, self.ys))


@dataclass(frozen=True, slots=True)
class Seen:
    """A person in a frame: which track, and the box, x1, y1, x2, y2 in shares of the frame."""

    track: int
    bbox: tuple[float, float, float, float]


def make_tracks(seed: int, duration_s: float, visits_per_hour: float, mean_stop_s: float) -> list[Track]:
    """Make visits that begin within a time. They come at random, stop at the shelf or till, and leave.

    Args:
        seed: Seed; different seeds have different visits.
        duration_s: Time within which visits begin, in seconds.
        visits_per_hour: Mean number of visits in an hour.
        mean_stop_s: Mean time at one place, in seconds.
    """
    rng = np.random.default_rng(seed)
    number = int(rng.poisson(duration_s / 3600 * visits_per_hour))
    begins = np.sort(rng.uniform(0, duration_s, number))
    return [_track(rng, float(begun), mean_stop_s) for begun in begins]


def frames_of(
    tracks: Sequence[Track], times_s: Sequence[float], seed: int, missed: float = 0
) -> Iterator[tuple[float, list[Seen]]]:
    """Yield what a camera sees at each time.

    Args:
        tracks: The visits.
        times_s: Times of the frames.
        seed: Seed of the sway and of misses.
        missed: Share of people whom a detector overlooks.
    """
    rng = np.random.default_rng((seed, 1))
    for at in times_s:
        found = []
        for number, track in enumerate(tracks):
            foot = track.foot(at)
            if foot is None or rng.random() < missed:
                continue
            x, y = (float(v) for v in np.array(foot) + rng.normal(0, _SWAY, 2))
            box = (x - _WIDTH / 2, y - HEIGHT, x + _WIDTH / 2, y)
            found.append(Seen(number, tuple(float(v) for v in np.clip(box, 0, 1))))  # type: ignore[arg-type]
        yield at, found


def person_seconds(
    tracks: Sequence[Track], duration_s: float, zone: tuple[float, float, float, float] | None = None
) -> float:
    """Return for how many seconds people were in view, or had their feet in a zone, added up."""
    if zone is None:
        return sum(max(0.0, min(t.ended_s, duration_s) - t.began_s) for t in tracks)
    left, top, right, bottom = zone
    total, step = 0.0, 0.05
    for track in tracks:
        at = np.arange(track.began_s, min(track.ended_s, duration_s), step)
        x, y = np.interp(at, track.times, track.xs), np.interp(at, track.times, track.ys)
        total += step * int(np.count_nonzero((x >= left) & (x <= right) & (y >= top) & (y <= bottom)))
    return total


def _track(rng: np.random.Generator, begun: float, mean_stop_s: float) -> Track:
    entry_y, exit_y = rng.uniform(0.55, 0.95, 2)
    times, xs, ys = [begun], [0.02], [float(entry_y)]
    stops: list[Stop] = []
    chosen = rng.random(3) < (0.6, 0.4, 0.8)
    places = [place for place, stops_there in zip((SHELF, _WALL, TILL), chosen, strict=True) if stops_there]
    for left, top, right, bottom in places:
        x, y = float(rng.uniform(left + 0.02, right - 0.02)), float(rng.uniform(top + 0.02, bottom - 0.02))
        arrived = times[-1] + _way(xs[-1], ys[-1], x, y)
        # Nobody stops for less than a few seconds.
        left_at = arrived + 5 + float(rng.gamma(2, max(mean_stop_s - 5, 1) / 2))
        stops.append(Stop(arrived, left_at, x, y))
        times += [arrived, left_at]
        xs += [x, x]
        ys += [y, y]
    times.append(times[-1] + _way(xs[-1], ys[-1], 0.98, float(exit_y)))
    xs.append(0.98)
    ys.append(float(exit_y))
    return Track(
        began_s=begun,
        ended_s=times[-1],
        stops=tuple(stops),
        gender=str(rng.choice(GENDERS)),
        age_group=str(rng.choice(AGES)),
        times=tuple(times),
        xs=tuple(xs),
        ys=tuple(ys),
    )


def _way(x: float, y: float, to_x: float, to_y: float) -> float:
    """Return how many seconds a way takes. A frame is 16 wide and 9 high."""
    return float(np.hypot(to_x - x, (to_y - y) * 9 / 16)) / _PACE
