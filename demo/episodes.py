"""Who is before a camera for a few frames, and where: the same people with the same track ids.

Time is cut into episodes of `EPISODE_FRAMES` frames of one camera. Each is drawn from the seed, the
camera and its number alone, so any frame can be made without those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from demo.cameras import CAMERA_NAMES, FAR_Y, FRAME_WIDTH, NEAR_Y, Camera, camera
from demo.figures import Pose
from demo.people import Appearance, draw_appearance

EPISODE_FRAMES = 4

_OPENING = datetime(2024, 5, 1, 8, 0, tzinfo=UTC)
_EPISODE_S, _FRAME_S = 300, 1
_MOST_PEOPLE = 7
"""Drawn for an episode; some are left out of a frame where too much of them would be hidden."""

_BEHIND_SHARE = 0.42
_CUT_OFF_SHARE = 0.12


@dataclass(frozen=True, slots=True)
class Standing:
    """One person in one frame, as planned: perhaps hidden, perhaps outside the picture.

    Attributes:
        track_id: The same in all frames of the episode.
        appearance: What they look like.
        pose: How they stand.
        foot_x: Column of the frame between their soles; may lie outside.
        foot_y: Row of the frame of their soles; may lie below it.
    """

    track_id: str
    appearance: Appearance
    pose: Pose
    foot_x: float
    foot_y: float


@dataclass(frozen=True, slots=True)
class Episode:
    """What a camera sees over a few frames.

    Attributes:
        camera: Which one.
        began_at: Time of the first frame, UTC.
        brightness: Factor of the light, about 1.
        warmth: -1 (bluish light) to 1 (reddish).
        frames: For each frame, who is planned to be there.
    """

    camera: Camera
    began_at: datetime
    brightness: float
    warmth: float
    frames: tuple[tuple[Standing, ...], ...]

    def captured_at(self, step: int) -> datetime:
        """Time of a frame, counted from 0, UTC."""
        return self.began_at + timedelta(seconds=step * _FRAME_S)


def make_episode(seed: int, camera_index: int, number: int) -> Episode:
    """The episode of that number, of one camera, in the store that the seed stands for.

    Args:
        seed: 0 or more.
        camera_index: Position in `CAMERA_NAMES`.
        number: Counted from 0.
    """
    rng = np.random.default_rng((seed, camera_index, number))
    name = CAMERA_NAMES[camera_index]
    view = camera(name)
    tracks = [
        _track(rng, view, f"{name}-{seed}-{number:05d}-{person}")
        for person in range(int(rng.integers(_MOST_PEOPLE + 1)))
    ]
    return Episode(
        camera=view,
        began_at=_OPENING + timedelta(seconds=number * _EPISODE_S + camera_index * 10),
        brightness=float(rng.uniform(0.82, 1.12)),
        warmth=float(rng.uniform(-1, 1)),
        frames=tuple(
            tuple(standing for track in tracks if (standing := track[step]) is not None)
            for step in range(EPISODE_FRAMES)
        ),
    )


def _track(rng: np.random.Generator, view: Camera, track_id: str) -> list[Standing | None]:
    """One person frame by frame; None before they come and after they leave."""
    appearance = draw_appearance(rng)
    place = rng.random()
    pace = np.array([rng.uniform(-45, 45), rng.uniform(-12, 12)])
    if place < _BEHIND_SHARE:
        piece = view.furniture[rng.integers(len(view.furniture))]
        start = np.array([rng.uniform(piece.left + 30, piece.right - 30), piece.base_y - rng.uniform(6, 22)])
        pace = np.array([rng.uniform(-20, 20), 0.0])
    elif place < _BEHIND_SHARE + _CUT_OFF_SHARE:
        start = np.array([rng.uniform(60, FRAME_WIDTH - 60), rng.uniform(600, 640)])
        pace[1] = 0
    else:
        start = np.array([rng.uniform(20, FRAME_WIDTH - 20), rng.uniform(FAR_Y, NEAR_Y)])
    facing = bool(rng.random() < 0.5)
    first, last = (int(rng.integers(2)), EPISODE_FRAMES - int(rng.integers(2)))
    found: list[Standing | None] = []
    for step in range(EPISODE_FRAMES):
        facing ^= bool(rng.random() < 0.15)
        stride = float(rng.uniform(-1, 1))
        x, y = start + step * pace
        here = first <= step < last
        found.append(Standing(track_id, appearance, Pose(facing, stride), x, y) if here else None)
    return found
