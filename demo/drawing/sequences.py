"""Longer scenes of a camera that make it hard to follow a person from frame to frame.

People stand, walk, turn round and cross each other's way, and every second one wears the same clothes as the
person before. A sequence depends only on the seed, the camera and its number, as an episode does.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from demo.drawing.cameras import CAMERA_NAMES, FAR_Y, FRAME_WIDTH, NEAR_Y, camera
from demo.drawing.episodes import Episode, Standing
from demo.drawing.figures import Pose
from demo.drawing.people import Appearance, draw_appearance

SEQUENCE_FRAMES = 12

_OPENING = datetime(2024, 5, 2, 8, 0, tzinfo=UTC)
_SEQUENCE_S = 300

_PEOPLE = (2, 5)
"""Fewest and most people of a sequence."""

_STANDING_SHARE, _CROSSING_SHARE, _SAME_CLOTHES_SHARE = 0.5, 0.5, 0.5
"""Share of people who stay at their place; shares of the others, and of all people, who cross the way of the
person before and who wear the same clothes."""

_TURNING_SHARE = 0.06
"""Probability that a person turns round between two frames."""

_SWAY_PX = 3.0


def make_sequence(seed: int, camera_index: int, number: int) -> Episode:
    """Make one sequence of one camera, of `SEQUENCE_FRAMES` frames a second apart.

    Args:
        seed: Seed that stands for a store, 0 or more.
        camera_index: Position of the camera in `CAMERA_NAMES`.
        number: Number of the sequence, counted from 0.
    """
    # The fourth number separates these people from those of the episodes.
    rng = np.random.default_rng((seed, camera_index, number, SEQUENCE_FRAMES))
    name = CAMERA_NAMES[camera_index]
    tracks: list[list[Standing]] = []
    for person in range(int(rng.integers(_PEOPLE[0], _PEOPLE[1] + 1))):
        before = tracks[-1] if tracks else None
        appearance = draw_appearance(rng)
        if before is not None and rng.random() < _SAME_CLOTHES_SHARE:
            appearance = _in_clothes_of(before[0].appearance, appearance)
        path = _path(rng, before)
        tracks.append(_track(rng, f"{name}-{seed}-s{number:05d}-{person}", appearance, path))
    return Episode(
        camera=camera(name),
        began_at=_OPENING + timedelta(seconds=number * _SEQUENCE_S + camera_index * 10),
        brightness=float(rng.uniform(0.82, 1.12)),
        warmth=float(rng.uniform(-1, 1)),
        frames=tuple(tuple(track[step] for track in tracks) for step in range(SEQUENCE_FRAMES)),
    )


def _in_clothes_of(before: Appearance, other: Appearance) -> Appearance:
    """Return the second person in the clothes of the first; age, face and headgear stay their own."""
    return replace(other, season=before.season, gender=before.gender, clothes=before.clothes)


def _path(rng: np.random.Generator, before: list[Standing] | None) -> np.ndarray:
    """Choose the places of a person in all frames: (frames, 2), x and y of the soles in pixels."""
    steps = np.arange(SEQUENCE_FRAMES)[:, None]
    low, high = (60, FAR_Y), (FRAME_WIDTH - 60, NEAR_Y)
    start = rng.uniform(low, high)
    sway = rng.uniform(-_SWAY_PX, _SWAY_PX, (SEQUENCE_FRAMES, 2))
    if rng.random() < _STANDING_SHARE:
        return start + sway
    end = rng.uniform(low, high)
    if before is not None and rng.random() < _CROSSING_SHARE:
        # They meet in the middle of the sequence.
        met = before[SEQUENCE_FRAMES // 2]
        end = np.clip(2 * np.array([met.foot_x, met.foot_y]) - start, low, high)
    return start + (end - start) * steps / (SEQUENCE_FRAMES - 1) + sway


def _track(
    rng: np.random.Generator, track_id: str, appearance: Appearance, path: np.ndarray
) -> list[Standing]:
    facing = bool(rng.random() < 0.5)
    found = []
    for x, y in path:
        facing ^= bool(rng.random() < _TURNING_SHARE)
        pose = Pose(facing, stride=float(rng.uniform(-1, 1)))
        found.append(Standing(track_id, appearance, pose, float(x), float(y)))
    return found
