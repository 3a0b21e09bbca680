"""The region of interest: which people are kept, by zones, relative height, minimum values and a maximum."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self

import numpy as np
import shapely
from pydantic import Field, field_validator, model_validator

from actors.settings_section import Section

DROP_REASONS = (
    "min_score",
    "min_height",
    "outside_include_zone",
    "inside_exclude_zone",
    "dynamic_height",
    "max_persons",
    "max_frame_bytes",
)
"""Every reason for dropping a person, in the order in which the rules are applied.

min_score             the score is below `min_score`
min_height            the box is lower than `min_height_px` pixels
outside_include_zone  the camera has include zones, and the person is in none of them
inside_exclude_zone   the person is in an exclude zone of the camera
dynamic_height        the box is lower than `dynamic.ratio` times the median height
max_persons           `max_persons` other people in the frame have a higher score
max_frame_bytes       the crops of people with higher scores take up `crops.max_frame_bytes`

`select_persons` decides all but the last, which is only known once the crops are cut.
"""

_SLACK = 1e-6
"""Tolerance for float32 boxes, as a share of the frame: rounding must not make equal heights differ."""
_OVERLAP_SLACK = 1e-5
"""The same tolerance for overlaps, as a share of the box's area."""

Point = tuple[float, float]


class Region(Section):
    """A region of one camera's frames, in shares of their width and height; y points down."""

    camera: str = Field("*", min_length=1, description="Name of the camera, or * for every camera.")
    polygon: tuple[Point, ...] | None = Field(
        None, description="Corners [[x, y], ...] in shares (0..1) of the frame's width and height."
    )
    rectangle: tuple[float, float, float, float] | None = Field(
        None, description="[left, top, right, bottom] in shares (0..1) of the frame, instead of a polygon."
    )
    test: Literal["foot_point", "overlap"] = Field(
        "foot_point",
        description="What must lie in the zone: the bottom centre of the box (`foot_point`), or a share of "
        "the box (`overlap`).",
    )
    min_overlap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the box's area that must lie in the zone for the test `overlap`.",
    )

    @field_validator("polygon", "rectangle")
    @classmethod
    def _within_the_frame(cls, value: tuple[Point, ...] | tuple[float, ...] | None) -> object:
        numbers = np.asarray(value if value is not None else (), float).ravel()
        outside = numbers[~((numbers >= 0) & (numbers <= 1))]
        if outside.size:
            raise ValueError(
                f"{outside[0]:g} is outside 0..1: coordinates are shares of the frame; divide pixels by its "
                "width or height"
            )
        return value

    @model_validator(mode="after")
    def _is_a_region(self) -> Self:
        if (self.polygon is None) == (self.rectangle is None):
            raise ValueError("give either a polygon or a rectangle")
        if self.rectangle is not None:
            left, top, right, bottom = self.rectangle
            if left >= right or top >= bottom:
                raise ValueError(
                    "a rectangle is [left, top, right, bottom] with left < right and top < bottom"
                )
        if self.polygon is not None:
            if len(set(self.polygon)) < 3:
                raise ValueError(f"a polygon needs 3 different corners or more, not {len(set(self.polygon))}")
            if not self.outline.is_valid:
                raise ValueError("the polygon crosses or touches itself: list its corners in order around it")
        return self

    @property
    def outline(self) -> shapely.Polygon:
        """The zone as a polygon, in shares of the frame."""
        if self.rectangle is not None:
            return shapely.box(*self.rectangle)
        return shapely.Polygon(self.polygon)

    def contains(self, bbox: np.ndarray) -> np.ndarray:
        """Return (n,) booleans for (n, 4) boxes, x1, y1, x2, y2 in shares of the frame."""
        return _contains(self.outline, self.test, self.min_overlap, bbox)


class Zone(Region):
    """A region that people are kept in, or dropped in."""

    mode: Literal["include", "exclude"] = Field(
        description="`include` drops people outside all such zones, and `exclude` drops people inside."
    )


class DynamicSettings(Section):
    """Drops people who are small compared with the others: most are far away, or on posters and screens."""

    enabled: bool = Field(True, description="Whether to drop people who are much smaller than the others.")
    ratio: float = Field(
        0.5,
        ge=0,
        le=2,
        description="People are dropped if their height is less than this many times the median height.",
    )
    scope: Literal["frame", "shard", "camera"] = Field(
        "frame",
        description="Which people the median height is taken over: those in the frame, in the shard, or in "
        "the shard's frames of the same camera.",
    )


class RoiSettings(Section):
    """The region of interest: which of the detected people are cut out and annotated."""

    static: tuple[Zone, ...] = Field((), description="Include and exclude zones of each camera.")
    dynamic: DynamicSettings = Field(
        DynamicSettings(), description="Rule that drops people by their relative height."
    )
    min_score: float = Field(
        0, ge=0, le=1, description="Minimum detection score. Values below detector.confidence have no effect."
    )
    min_height_px: float = Field(0, ge=0, description="Minimum height of a box, in pixels of the frame.")
    max_persons: int | None = Field(
        None,
        ge=1,
        description="Maximum number of people kept per frame; the highest scores are kept. null keeps all.",
    )


@dataclass(frozen=True, slots=True)
class PersonBoxes:
    """The people of one shard, or of one frame, in n rows.

    Attributes:
        frame: (n,) integers that are equal for people in the same frame.
        camera: n names of cameras; None if the shard doesn't name the camera.
        bbox: (n, 4) float32, x1, y1, x2, y2 in shares of the frame.
        frame_height_px: (n,) height of each person's frame, in pixels.
        score: (n,) float32, 0..1.

    Raises:
        ValueError: The columns differ in length.
    """

    frame: np.ndarray
    camera: Sequence[str | None]
    bbox: np.ndarray
    frame_height_px: np.ndarray
    score: np.ndarray

    def __post_init__(self) -> None:
        arrays = (self.frame, self.bbox, self.frame_height_px, self.score)
        lengths = [len(self.camera), *(len(array) for array in arrays)]
        if len(set(lengths)) > 1:
            raise ValueError(f"the columns have different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.frame)


def select_persons(settings: RoiSettings, persons: PersonBoxes) -> list[str | None]:
    """Decide which people are kept.

    The rules run in the order of DROP_REASONS. Each rule sees only the people that the earlier rules kept,
    and the first rule that drops a person is the reason. The median of the dynamic rule is therefore taken
    over the people who passed the rules on score, height and zones. Heights are compared as shares of the
    frame, so a camera whose resolution changes within a shard has a single median. Between equal scores,
    the earlier row is kept.

    Returns:
        For each person, None if kept, or else the reason from DROP_REASONS.
    """
    reasons = np.zeros(len(persons), np.int8)
    if not len(persons):
        return []
    bbox = persons.bbox.astype(np.float64)
    height = bbox[:, 3] - bbox[:, 1]

    def drop(rule: str, failing: np.ndarray) -> None:
        reasons[(reasons == 0) & failing] = DROP_REASONS.index(rule) + 1

    drop("min_score", persons.score < np.float32(settings.min_score))
    drop("min_height", height < settings.min_height_px / persons.frame_height_px - _SLACK)
    if settings.static:
        outside, inside = _test_zones(settings.static, persons.camera, bbox)
        drop("outside_include_zone", outside)
        drop("inside_exclude_zone", inside)
    if settings.dynamic.enabled:
        drop("dynamic_height", _is_low(settings.dynamic, persons, height, reasons == 0))
    if settings.max_persons is not None:
        drop("max_persons", _is_surplus(settings.max_persons, persons, reasons == 0))
    names = (None, *DROP_REASONS)
    return [names[reason] for reason in reasons]


def select_candidates(settings: RoiSettings, persons: PersonBoxes) -> list[str | None]:
    """Decide about the people of one frame what is certain before the shard's other frames are known.

    The rules on score, height and zones look at one person at a time. Beyond these, a person is certain to
    be dropped if `max_persons` others have a higher score and are at least as tall, because whatever median
    the dynamic rule compares with, it keeps them if it keeps this person.

    Args:
        settings: The rules; the scope of the dynamic rule is wider than the frame.
        persons: The people of one frame, in descending order of score.

    Returns:
        For each person, None if `select_persons` may keep them. The reason is provisional otherwise.
    """
    reasons = select_persons(_rules_of_one_person(settings), persons)
    if settings.max_persons is None:
        return reasons
    heights: list[float] = []
    for index, (_, top, _, bottom) in enumerate(persons.bbox.astype(np.float64)):
        if reasons[index] is not None:
            continue
        position = bisect_left(heights, bottom - top)
        if len(heights) - position >= settings.max_persons:
            reasons[index] = "max_persons"
        heights.insert(position, bottom - top)
    return reasons


@lru_cache(maxsize=16)
def _rules_of_one_person(settings: RoiSettings) -> RoiSettings:
    off = settings.dynamic.model_copy(update={"enabled": False})
    return settings.model_copy(update={"dynamic": off, "max_persons": None})


def _is_low(
    settings: DynamicSettings, persons: PersonBoxes, height: np.ndarray, left: np.ndarray
) -> np.ndarray:
    low = np.zeros(len(persons), bool)
    for group in _groups(settings.scope, persons):
        rows = group & left
        if rows.any():
            low[rows] = height[rows] < settings.ratio * np.median(height[rows]) - _SLACK
    return low


def _groups(scope: str, persons: PersonBoxes) -> list[np.ndarray]:
    """Return the masks of the rows that share a median; all frames of unknown cameras form one group."""
    if scope == "shard":
        return [np.ones(len(persons), bool)]
    if scope == "frame":
        return [persons.frame == frame for frame in np.unique(persons.frame)]
    cameras = np.array([camera or "" for camera in persons.camera])
    return [cameras == camera for camera in np.unique(cameras)]


def _is_surplus(most: int, persons: PersonBoxes, left: np.ndarray) -> np.ndarray:
    surplus = np.zeros(len(persons), bool)
    for group in _groups("frame", persons):
        rows = np.flatnonzero(group & left)
        surplus[rows[np.argsort(-persons.score[rows], kind="stable")[most:]]] = True
    return surplus


def _contains(outline: shapely.Geometry, test: str, min_overlap: float, bbox: np.ndarray) -> np.ndarray:
    """Return (n,) booleans for (n, 4) boxes; a foot point on the border is inside."""
    if test == "foot_point":
        foot_x = (bbox[:, 0] + bbox[:, 2]) / 2
        return np.asarray(shapely.intersects_xy(outline, foot_x, bbox[:, 3]), bool)
    boxes = shapely.box(bbox[:, 0], bbox[:, 1], bbox[:, 2], bbox[:, 3])
    shared = shapely.area(shapely.intersection(boxes, outline))
    enough = shared >= (min_overlap - _OVERLAP_SLACK) * shapely.area(boxes)
    return np.asarray(enough & (shared > 0), bool)


@dataclass(frozen=True, slots=True)
class _UnitedZones:
    """Zones of one camera with the same test, merged so that no part of a box counts twice."""

    outline: shapely.Geometry
    test: str
    min_overlap: float

    def contains(self, bbox: np.ndarray) -> np.ndarray:
        """Return (n,) booleans for (n, 4) boxes."""
        return _contains(self.outline, self.test, self.min_overlap, bbox)


def _test_zones(
    zones: tuple[Zone, ...], cameras: Sequence[str | None], bbox: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks of the boxes: outside all include zones, and inside an exclude zone.

    The first mask is False for cameras without include zones.
    """
    outside, inside = np.zeros(len(bbox), bool), np.zeros(len(bbox), bool)
    names = np.array([camera or "" for camera in cameras])
    for camera in np.unique(names):
        rows = names == camera
        include = _regions(zones, str(camera), "include")
        if include:
            outside[rows] = ~np.any([region.contains(bbox[rows]) for region in include], axis=0)
        for region in _regions(zones, str(camera), "exclude"):
            inside[rows] |= region.contains(bbox[rows])
    return outside, inside


@lru_cache(maxsize=4096)
def _regions(zones: tuple[Zone, ...], camera: str, mode: str) -> list[_UnitedZones]:
    alike: dict[tuple[str, float], list[shapely.Polygon]] = {}
    for zone in zones:
        if zone.mode == mode and zone.camera in ("*", camera):
            key = (zone.test, zone.min_overlap if zone.test == "overlap" else 0)
            alike.setdefault(key, []).append(zone.outline)
    regions = []
    for (test, min_overlap), outlines in alike.items():
        united = shapely.union_all(outlines)
        shapely.prepare(united)
        regions.append(_UnitedZones(united, test, min_overlap))
    return regions
