"""Who is before a camera for a few frames, and where: the same people with the same track ids.

Time is cut into episodes of `EPISODE_FRAMES` frames of one camera. Each is drawn from the seed, the
camera and its number alone, so any frame can be made without those before it.
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
"""Of episodes with 0, 1, ... 6 people; some are left out of frames where too much of them would be hidden."""

_BEHIND_SHARE, _CUT_OFF_SHARE, _BESIDE_SHARE = 0.25, 0.07, 0.08
"""Of people who stand behind furniture, too close to the camera to be seen whole, and wherever it is,
perhaps before or behind others. The rest keep clear of the others."""

_TRIES = 8


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
    """Where someone stands first, given where others do, and the step to the next frame: (x, y), pixels."""
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
    """One person frame by frame; None before they come and after they leave."""
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
