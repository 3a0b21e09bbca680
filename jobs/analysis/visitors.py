"""How many visitors there were: never the sum of detections, and only as a range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from jobs.analysis.linking import CameraLinks
from jobs.analysis.shop import VisitorSettings
from jobs.run.words import time_in_words

_Z = 1.96
"""Quantile of the normal distribution for 95%."""
_SPREAD = 1.0
"""Standard deviation of visits' lengths as a share of their mean: that of the exponential distribution."""


VISITORS_SCHEMA = pa.schema(
    [("low", pa.int64()), ("high", pa.int64()), ("by", pa.string()), ("rests_on", pa.string())]
)


@dataclass(frozen=True, slots=True)
class Visitors:
    """A range for the number of visitors in the observed time, and what it rests on."""

    low: int
    high: int
    by: Literal["links", "dwell", "door"]
    rests_on: str


def visitors(
    links: Sequence[CameraLinks], person_seconds: float, known: VisitorSettings
) -> tuple[list[Visitors], str | None]:
    """Return a range for each way to count visitors that is open, the most reliable first.

    Args:
        links: The people of the cameras that count.
        person_seconds: Person-seconds of the whole shop.
        known: What the user knows.

    Returns:
        The ranges, and if there is none, why.
    """
    found = []
    if known.door_count is not None:
        error = known.door_error
        found.append(
            Visitors(
                math.floor(known.door_count * (1 - error)),
                math.ceil(known.door_count * (1 + error)),
                "door",
                f"the door count that was given, {known.door_count:,}, which may be wrong by {error:.0%}",
            )
        )
    if links and all(one.follows_walkers for one in links):
        found.append(_by_links(links))
    if known.dwell_s is not None and person_seconds > 0:
        found.append(_by_dwell(person_seconds, *known.dwell_s))
    if found:
        return found, None
    return [], (
        "The number of visitors is not known: people who walk can't be linked at this frame rate. Give "
        "visitors.dwell_s (how long a visitor stays in view on average, from and to) or visitors.door_count "
        "in the zones file. A sum of detections would count everybody many times."
    )


def _by_links(links: Sequence[CameraLinks]) -> Visitors:
    lows = [sum(track.from_edge and len(track.times) > 1 for track in one.tracks) for one in links]
    highs = [len(one.tracks) for one in links]
    rests = "people who were followed through the view: at least those who came in at its edge, at most all"
    if len(links) > 1:
        rests += (
            f"; visitors may pass each of the {len(links)} cameras, so at least those of the busiest camera "
            "and at most those of all"
        )
    return Visitors(max(lows), sum(highs), "links", rests)


def _by_dwell(person_seconds: float, shortest_s: float, longest_s: float) -> Visitors:
    """Return person-seconds divided by the dwell, by Little's law, with the chance of which visits came."""
    fewest, most = person_seconds / longest_s, person_seconds / shortest_s
    low = fewest - _Z * _SPREAD * math.sqrt(fewest)
    high = most + _Z * _SPREAD * math.sqrt(most)
    return Visitors(
        max(0, math.floor(low)),
        math.ceil(high),
        "dwell",
        f"{time_in_words(person_seconds)} of person-time divided by the dwell that was given, {shortest_s:g} "
        f"to {longest_s:g} s",
    )
