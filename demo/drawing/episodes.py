"""The people in front of a camera for a few frames, their places and their track ids.

Time is divided into episodes of `EPISODE_FRAMES` frames of one camera. Within an episode, people and
track ids stay the same. An episode depends only on the seed, the camera and its number, so any frame
can be made without the frames before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from demo.drawing.cameras import CAMERA_NAMES, FAR_Y, FRAME_WIDTH, NEAR_Y, Camera, camera
from demo.drawing.figures import Pose
from demo.drawing.people import Appearance, draw_appearance

EPISODE_FRAMES = 4

_OPENING = datetime(2024, 5, 1, 8, 0, tzinfo=UTC)
_EPISODE_S, _FRAME_S = 300, 1
_PEOPLE_SHARES = (0.04, 0.10, 0.14, 0.18, 0.20, 0.18, 0.16)
"""Shares of episodes with 0, 1, ... 6 people. A frame can show fewer: people who would be hidden too much
are left out of it."""

_BEHIND_SHARE, _CUT_OFF_SHARE, _BESIDE_SHARE = 0.25, 0.07, 0.08
"""Shares of people who stand behind furniture, who stand too close to the camera to be seen whole, and
who stand anywhere, possibly in front of or behind others. The rest keep clear of the others."""

_TRIES = 8


@dataclass(frozen=True, slots=True)
class Standing:
    """The planned place of one person in one frame. The person may be hidden or outside the picture.

    Attributes:
        track_id: Id of the person, the same in all frames of the episode.
        appearance: What the person looks like.
        pose: How the person stands.
        foot_x: Column midway between the soles; may lie outside the frame.
        foot_y: Row of the soles; may lie below the frame.
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
        camera: The camera.
        began_at: Time of the first frame, in UTC.
        brightness: Factor of the light, about 1.
        warmth: Colour of the light, from -1 (bluish) to 1 (reddish).
        frames: For each frame, the people who are planned to be in it.
    """

    camera: Camera
    began_at: datetime
    brightness: float
    warmth: float
    frames: tuple[tuple[Standing, ...], ...]

    def captured_at(self, step: int) -> datetime:
        """Return the time of a frame in UTC; `step` counts frames from 0."""
        return self.began_at + timedelta(seconds=step * _FRAME_S)


def make_episode(seed: int, camera_index: int, number: int) -> Episode:
    """Make one episode of one camera.

    Args:
        seed: Seed that stands for a store, 0 or more.
        camera_index: Position of the camera in `CAMERA_NAMES`.
        number: Number of the episode, counted from 0.
    """
    rng = np.random.default_rng((seed, camera_index, number))
    name = CAMERA_NAMES[camera_index]
    view = camera(name)
    people = int(rng.choice(len(_PEOPLE_SHARES), p=_PEOPLE_SHARES))
    tracks: list[list[Standing | None]] = []
    taken: list[np.ndarray] = []
    for person in range(people):
        start, pace = _path(rng, view, taken)
        taken.append(start)
        tracks.append(_track(rng, f"{name}-{seed}-{number:05d}-{person}", start, pace))
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


def _path(rng: np.random.Generator, view: Camera, taken: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Choose where a person stands in the first frame, and the step to the next frame.

    Args:
        rng: Source of randomness.
        view: The camera.
        taken: Places of the people chosen before.

    Returns:
        The place and the step, each (x, y) in pixels.
    """
    place = rng.random()
    if place < _BEHIND_SHARE:
        piece = view.furniture[rng.integers(len(view.furniture))]
        low, high = (piece.left + 30, piece.base_y - 26), (piece.right - 30, piece.base_y - 12)
        pace = rng.uniform((-20, 0), (20, 0))
    elif place < _BEHIND_SHARE + _CUT_OFF_SHARE:
        low, high = (60, 590), (FRAME_WIDTH - 60, 640)
        pace = rng.uniform((-45, 0), (45, 0))
    else:
        low, high = (20, FAR_Y), (FRAME_WIDTH - 20, NEAR_Y)
        pace = rng.uniform((-45, -12), (45, 12))
    tries = 1 if place > 1 - _BESIDE_SHARE else _TRIES
    starts = rng.uniform(low, high, (tries, 2))
    clearances = [min((abs(start[0] - other[0]) for other in taken), default=0.0) for start in starts]
    return starts[int(np.argmax(clearances))], pace


def _track(
    rng: np.random.Generator, track_id: str, start: np.ndarray, pace: np.ndarray
) -> list[Standing | None]:
    """Plan one person frame by frame; None stands for frames before they come and after they leave."""
    appearance = draw_appearance(rng)
    facing = bool(rng.random() < 0.5)
    first, end = int(rng.integers(2)), EPISODE_FRAMES - int(rng.integers(2))
    found: list[Standing | None] = []
    for step in range(EPISODE_FRAMES):
        facing ^= bool(rng.random() < 0.15)
        pose = Pose(facing, stride=float(rng.uniform(-1, 1)))
        x, y = (float(value) for value in start + step * pace)
        found.append(Standing(track_id, appearance, pose, x, y) if first <= step < end else None)
    return found
