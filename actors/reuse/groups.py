"""Which kept persons of a shard are one person, and who of them is asked about.

A person is followed from frame to frame of a camera: the box overlaps that of the last frame in which the
person was seen, within a time, and the pictures are alike. From the crops that were followed, the clearest is
taken, with all others that are alike to it; then the clearest of the rest, and so on. A group therefore has
at most one crop of a frame, and every crop in it is alike to the clearest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import numpy as np
import pyarrow as pa

from actors.boxes import box_ious
from actors.reuse.pictures import Picture, picture_of, similarity
from actors.reuse.settings import ReuseSettings

_EDGE = 0.004
"""Distance of a box from the edge of the frame, as a share of its size, below which the person is cut off."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is known and what is to be asked next about some persons, all given by their positions.

    Attributes:
        asked: Persons to ask about now.
        inherits: Persons that inherit, with the person whose answer it is and the similarity to it.
    """

    asked: tuple[int, ...]
    inherits: Mapping[int, tuple[int, float]]


@dataclass(frozen=True, eq=False)
class CropGroups:
    """The groups among the kept persons of a shard, which are given by their positions in its table.

    Attributes:
        keys: Frame key and person index of each person.
        groups: The groups of at least two persons, each with the clearest first.
        least: Smallest similarity of two pictures of one person.
    """

    keys: Sequence[tuple[str, int]]
    groups: tuple[tuple[int, ...], ...] = ()
    least: float = 1.0
    _pictures: Mapping[int, Picture] = field(default_factory=dict)

    @cached_property
    def _group_of(self) -> dict[int, tuple[int, ...]]:
        return {person: group for group in self.groups for person in group}

    def name(self, person: int) -> str | None:
        """Return the name of a person's group, which is the key of its clearest crop; None for one alone."""
        group = self._group_of.get(person)
        if group is None:
            return None
        frame_key, index = self.keys[group[0]]
        return f"{frame_key}/{index}"

    def similarity(self, one: int, other: int) -> float:
        """Return how alike two persons of a group are (0..1)."""
        return similarity(self._pictures[one], self._pictures[other])

    def next_step(self, waiting: Collection[int], answered: Collection[int]) -> Step:
        """Return who of the waiting persons inherits now, and who is asked about next.

        Where the clearest of a group got no usable answer, the next clearest is asked.

        Args:
            waiting: Persons without an outcome.
            answered: Persons with an answer of their own.
        """
        open_, given = set(waiting), set(answered)
        asked = [person for person in sorted(open_) if person not in self._group_of]
        inherits: dict[int, tuple[int, float]] = {}
        for group in self.groups:
            sources = [person for person in group if person in given]
            new: list[int] = []
            for person in (person for person in group if person in open_):
                alike = [(self.similarity(source, person), -source) for source in sources]
                best = max(alike, default=(0.0, 0))
                if best[0] >= self.least:
                    inherits[person] = (-best[1], best[0])
                elif not any(self.similarity(first, person) >= self.least for first in new):
                    new.append(person)
            asked += new
        return Step(tuple(sorted(asked)), inherits)


def find_groups(frames: pa.Table, persons: pa.Table, settings: ReuseSettings, within_s: float) -> CropGroups:
    """Find the groups among kept persons.

    Args:
        frames: Table with FRAMES_SCHEMA.
        persons: The kept rows of a table with PERSONS_SCHEMA. Persons without a crop are alone.
        settings: Overlap and similarity.
        within_s: Longest time between two frames in which a person is followed, in seconds; 0 finds nobody.
    """
    columns = persons.select(["frame_key", "person_index", "bbox", "crop"]).to_pylist()
    keys = [(row["frame_key"], row["person_index"]) for row in columns]
    if within_s <= 0:
        return CropGroups(keys)
    in_frame: defaultdict[str, list[int]] = defaultdict(list)
    pictures: dict[int, Picture] = {}
    for position, row in enumerate(columns):
        if row["crop"] is not None and (picture := picture_of(row["crop"])) is not None:
            pictures[position] = picture
            in_frame[row["frame_key"]].append(position)
    boxes = [row["bbox"] for row in columns]
    places = {row["frame_key"]: row for row in frames.to_pylist() if row["status"] == "ok"}
    found = []
    for timeline in _timelines(places, in_frame):
        for track in _tracks(timeline, in_frame, boxes, pictures, settings, within_s):
            found += list(_divided(track, keys, boxes, pictures, places, settings.reuse_similarity))
    of_groups = {person: pictures[person] for group in found for person in group}
    return CropGroups(keys, tuple(sorted(found)), settings.reuse_similarity, of_groups)


def _timelines(
    frames: Mapping[str, dict[str, object]], in_frame: Collection[str]
) -> Iterator[list[tuple[datetime, str]]]:
    """Yield the frames of each camera that show anybody, in the order of their times."""
    by_camera: defaultdict[object, list[tuple[datetime, str]]] = defaultdict(list)
    for key, row in frames.items():
        at = row["captured_at"]
        if key in in_frame and row["camera"] is not None and isinstance(at, datetime):
            by_camera[row["camera"]].append((at, key))
    for _, timeline in sorted(by_camera.items(), key=lambda entry: str(entry[0])):
        yield sorted(timeline)


def _tracks(
    timeline: Sequence[tuple[datetime, str]],
    in_frame: Mapping[str, Sequence[int]],
    boxes: Sequence[Sequence[float]],
    pictures: Mapping[int, Picture],
    settings: ReuseSettings,
    within_s: float,
) -> list[list[int]]:
    """Follow the people of one camera, and return the persons of each one, by time."""
    done: list[list[int]] = []
    followed: list[tuple[datetime, list[int]]] = []
    for at, key in timeline:
        over = [track for last, track in followed if (at - last).total_seconds() > within_s]
        done += over
        followed = [entry for entry in followed if (at - entry[0]).total_seconds() <= within_s]
        here = in_frame[key]
        overlaps = box_ious([boxes[track[-1]] for _, track in followed], [boxes[p] for p in here])
        candidates = []
        for row, column in np.argwhere(overlaps >= settings.reuse_overlap):
            alike = similarity(pictures[followed[row][1][-1]], pictures[here[column]])
            if alike >= settings.reuse_similarity:
                candidates.append((-alike, int(row), int(column)))
        rows, columns = set[int](), set[int]()
        for _, row, column in sorted(candidates):
            if row not in rows and column not in columns:
                rows.add(row)
                columns.add(column)
                followed[row] = (at, [*followed[row][1], here[column]])
        followed += [(at, [person]) for column, person in enumerate(here) if column not in columns]
    return done + [track for _, track in followed]


def _divided(
    track: Sequence[int],
    keys: Sequence[tuple[str, int]],
    boxes: Sequence[Sequence[float]],
    pictures: Mapping[int, Picture],
    frames: Mapping[str, dict[str, object]],
    least: float,
) -> Iterator[tuple[int, ...]]:
    """Yield the groups of a track: its clearest crop with those that are alike to it, and so on."""
    clearest = sorted(
        track, key=lambda p: (*_clearness(boxes[p], pictures[p], frames[keys[p][0]]), keys[p]), reverse=True
    )
    while clearest:
        first = clearest[0]
        group = [p for p in clearest if p == first or similarity(pictures[first], pictures[p]) >= least]
        if len(group) > 1:
            yield tuple(group)
        clearest = [p for p in clearest if p not in set(group)]


def _clearness(box: Sequence[float], picture: Picture, frame: Mapping[str, object]) -> tuple[bool, float]:
    """Return how well a crop shows its person: whole people first, then by size times sharpness."""
    left, top, right, bottom = box
    is_whole = min(left, top) > _EDGE and max(right, bottom) < 1 - _EDGE
    width, height = frame["width"], frame["height"]
    assert isinstance(width, int)
    assert isinstance(height, int)
    return is_whole, (right - left) * width * (bottom - top) * height * picture.sharpness
