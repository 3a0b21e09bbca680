"""How long people stand in one place, and how long whole visits last, from linked people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.analysis.linking import STANDS, CameraLinks, Track

_SHORTEST_S = 3.0
"""Shortest time in one place that counts as standing."""


DWELL_SCHEMA = pa.schema(
    [
        ("camera", pa.string()),
        ("interval_s", pa.float64()),
        ("linked_share", pa.float64()),
        ("stops", pa.int64()),
        ("cut", pa.int64()),
        ("mean_s", pa.float64()),
        ("median_s", pa.float64()),
        ("p90_s", pa.float64()),
        ("visits", pa.int64()),
        ("mean_visit_s", pa.float64()),
        ("said", pa.string()),
        ("rests_on", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Dwell:
    """What is known about one camera.

    Attributes:
        camera: The camera.
        interval_s: Median time between its frames, or None if they are too far apart to link anybody.
        linked_share: Share of detections that could be linked to another one.
        stops: Number of times that somebody stood in one place, without those that were cut off.
        cut: Number of those that were cut off by the first or the last frame or a gap.
        mean_s, median_s, p90_s: How long they stood, in seconds.
        visits: Number of people who were followed through the view, where walkers can be linked.
        mean_visit_s: How long they were in view.
        said: What can't be said, and why.
        rests_on: What people were linked by, in words; None if nobody could be.
    """

    camera: str
    interval_s: float | None
    linked_share: float | None
    stops: int
    cut: int
    mean_s: float | None
    median_s: float | None
    p90_s: float | None
    visits: int | None
    mean_visit_s: float | None
    said: str | None
    rests_on: str | None


def dwell_of(links: CameraLinks, max_link_s: float, attributes: Sequence[str]) -> Dwell:
    """Return how long people stand and stay in view of a camera.

    Args:
        links: The people of the camera.
        max_link_s: Longest time over which a person was linked.
        attributes: The attributes by which people were linked.
    """
    if links.interval_s is None:
        said = (
            f"No two frames are within analyze.max_link_s ({max_link_s:g} s) of each other, so nobody can be "
            "linked, and there is no dwell."
        )
        return Dwell(links.camera, None, None, 0, 0, None, None, None, None, None, said, None)
    lengths, cut = [], 0
    for track in links.tracks:
        for seconds, is_cut in _stops(track, links.interval_s):
            if is_cut:
                cut += 1
            else:
                lengths.append(seconds)
    visits: int | None = None
    mean_visit: float | None = None
    reason: str | None = None
    if links.follows_walkers:
        whole = [t.times[-1] - t.times[0] + links.interval_s for t in links.tracks if not t.cut]
        visits, mean_visit = len(whole), float(np.mean(whole)) if whole else None
    else:
        reason = (
            f"Frames are {links.interval_s:g} s apart, so people who walk can't be linked (that takes two "
            "frames a second): the dwell is that of people who stand."
        )
    return Dwell(
        camera=links.camera,
        interval_s=links.interval_s,
        linked_share=links.linked / links.people if links.people else None,
        stops=len(lengths),
        cut=cut,
        mean_s=float(np.mean(lengths)) if lengths else None,
        median_s=float(np.median(lengths)) if lengths else None,
        p90_s=float(np.quantile(lengths, 0.9)) if lengths else None,
        visits=visits,
        mean_visit_s=mean_visit,
        said=reason,
        rests_on=(
            "people whom the detector has found, linked by their boxes and by the final values of "
            f"{', '.join(attributes)}: models' guesses where nobody has decided"
            if attributes
            else "people whom the detector has found, linked by their boxes: a model's guess"
        ),
    )


def _stops(track: Track, interval_s: float) -> Iterator[tuple[float, bool]]:
    """Yield how long a person stood at each place, and whether it was cut off.

    Somebody who is seen in n frames stood on average for one interval more than between the first and the
    last of them: half of one at each end.
    """
    runs = _runs(track.feet, track.heights)
    for first, last in runs:
        seconds = track.times[last] - track.times[first]
        if last > first and seconds + interval_s >= _SHORTEST_S:
            cut = track.cut and (first == 0 or last == len(track.times) - 1)
            yield seconds + interval_s, cut


def _runs(feet: Sequence[tuple[float, float]], heights: Sequence[float]) -> list[tuple[int, int]]:
    """Return the first and last index of each longest run of places that are close to their mean."""
    runs, first = [], 0
    mean = np.array(feet[0], float)
    for place in range(1, len(feet)):
        if np.hypot(*(np.array(feet[place]) - mean)) > STANDS * heights[place]:
            runs.append((first, place - 1))
            first, mean = place, np.array(feet[place], float)
        else:
            mean += (np.array(feet[place]) - mean) / (place - first + 1)
    return [*runs, (first, len(feet) - 1)]
