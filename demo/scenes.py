"""Simulated frames of store cameras, with the truth about every person in them.

This command writes WebDataset shards to DIR/shards and the truth to DIR/truth.parquet:

    python -m demo.scenes --output DIR --frames N --seed S [--sequences]

With --sequences, the frames show the same people for longer (see `demo/drawing/sequences.py`). The same seed
gives the same pictures. `demo/drawing/people.py` describes how each attribute is drawn.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.storage.layout import object_name
from demo.drawing.cameras import CAMERA_NAMES, FRAME_HEIGHT, FRAME_WIDTH
from demo.drawing.composition import OCCLUDED_BELOW, Placed, compose
from demo.drawing.episodes import EPISODE_FRAMES, Episode, make_episode
from demo.drawing.sequences import SEQUENCE_FRAMES, make_sequence

SHARDS_FOLDER = "shards"
TRUTH_FILE = "truth.parquet"
"""File of the truth. It is beside the shards' folder; inside it, the job would read the table as input."""

_JPEG_QUALITY = 85

TRUTH_SCHEMA = pa.schema(
    [
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("frame_key", pa.string(), nullable=False),
        pa.field("track_id", pa.string()),
        pa.field("bbox", pa.list_(pa.float32(), 4)),
        pa.field("visible", pa.float32()),
        *AttributeSchema(SchemaSettings()).arrow_fields(),
    ]
)
"""One row per person: the ids of shard and frame as in the job's output, the box in shares (0..1) of the
frame, the visible share of the figure, and one column for each attribute of the default schema. A frame
without people has one row in which all columns except the ids are null, as `shopframe evaluate` expects."""


@dataclass(frozen=True, slots=True)
class ScenePerson:
    """The truth about one person of a scene.

    Attributes:
        bbox: x1, y1, x2, y2 of the smallest box around the visible pixels, as shares (0..1) of the frame.
        track_id: Id that the person has in all frames of the camera.
        visible: Visible share (0..1) of the figure.
        attributes: Values of all attributes of the default schema by name. `occlusion` is True if
            `visible` is below 0.8.
    """

    bbox: tuple[float, float, float, float]
    track_id: str
    visible: float
    attributes: dict[str, bool | str | int]


@dataclass(frozen=True, slots=True)
class Scene:
    """One frame with its truth.

    Attributes:
        key: Key that is unique among the frames of a seed.
        image: (540, 960, 3) uint8, BGR.
        camera: Name of the camera.
        captured_at: Time of the frame, in UTC.
        persons: All people in the picture, from the nearest to the farthest.
    """

    key: str
    image: np.ndarray
    camera: str
    captured_at: datetime
    persons: tuple[ScenePerson, ...]


def generate_scenes(seed: int, frames: int) -> Iterator[Scene]:
    """Generate frames of the four cameras in turn, four consecutive frames of a camera at a time.

    A scene depends only on the seed and its position, so asking for more frames doesn't change the others.

    Args:
        seed: Seed that stands for a store, 0 or more; different seeds have different people.
        frames: Number of frames.
    """
    return _generate(seed, frames, make_episode, EPISODE_FRAMES)


def generate_sequences(seed: int, frames: int) -> Iterator[Scene]:
    """Generate frames of the four cameras in turn, twelve consecutive frames of a camera at a time.

    People stay in them for longer than in `generate_scenes`, and are harder to tell apart.

    Args:
        seed: Seed that stands for a store, 0 or more.
        frames: Number of frames.
    """
    return _generate(seed, frames, make_sequence, SEQUENCE_FRAMES)


def _generate(
    seed: int, frames: int, make: Callable[[int, int, int], Episode], length: int
) -> Iterator[Scene]:
    for index in range(frames):
        block, step = divmod(index, length)
        number, camera_index = divmod(block, len(CAMERA_NAMES))
        episode = make(seed, camera_index, number)
        # The fourth number separates this random stream from the episode's own.
        rng = np.random.default_rng((seed, camera_index, number, step + 1))
        image, placed = compose(episode, step, rng)
        yield Scene(
            key=f"{index:06d}-{episode.camera.name}",
            image=image,
            camera=episode.camera.name,
            captured_at=episode.captured_at(step),
            persons=tuple(_truth(person) for person in placed),
        )


def write_shards(
    output: Path, seed: int, frames: int, frames_per_shard: int, sequences: bool = False
) -> None:
    """Write shards/scenes-00000.tar and so on, and truth.parquet, to a folder.

    The same arguments give the same bytes. For each frame, a tar holds `<key>.jpg` and `<key>.json` (with
    `camera` and `captured_at`).

    Args:
        output: Folder, which is created if missing; existing files with these names are overwritten.
        seed: Seed, as in `generate_scenes`.
        frames: Total number of frames.
        frames_per_shard: Number of frames in one tar.
        sequences: Whether the frames are those of `generate_sequences`.

    Raises:
        ValueError: `frames_per_shard` is below 1.
    """
    if frames_per_shard < 1:
        raise ValueError(f"frames_per_shard is {frames_per_shard}; give 1 or more")
    folder = output / SHARDS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    scenes = (generate_sequences if sequences else generate_scenes)(seed, frames)
    rows: list[dict[str, Any]] = []
    for number in range(-(-frames // frames_per_shard)):
        name = f"scenes-{number:05d}"
        rows += _write_tar(folder / f"{name}.tar", object_name(name), islice(scenes, frames_per_shard))
    pq.write_table(pa.Table.from_pylist(rows, TRUTH_SCHEMA), output / TRUTH_FILE)


def _write_tar(path: Path, shard_id: str, scenes: Iterable[Scene]) -> Iterator[dict[str, Any]]:
    with tarfile.open(path, "w") as tar:
        for scene in scenes:
            facts = {"camera": scene.camera, "captured_at": scene.captured_at.isoformat()}
            _add(tar, f"{scene.key}.jpg", encode_jpeg(scene))
            _add(tar, f"{scene.key}.json", json.dumps(facts).encode())
            frame: dict[str, Any] = {"shard_id": shard_id, "frame_key": scene.key}
            if not scene.persons:
                yield frame
            for person in scene.persons:
                yield {
                    **frame,
                    "track_id": person.track_id,
                    "bbox": person.bbox,
                    "visible": person.visible,
                    **person.attributes,
                }


def encode_jpeg(scene: Scene) -> bytes:
    """Encode the scene's picture as it is stored in its shard."""
    _, encoded = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return encoded.tobytes()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _truth(placed: Placed) -> ScenePerson:
    rows, columns = np.flatnonzero(placed.mask.any(axis=1)), np.flatnonzero(placed.mask.any(axis=0))
    standing = placed.standing
    return ScenePerson(
        bbox=(
            float(columns[0] / FRAME_WIDTH),
            float(rows[0] / FRAME_HEIGHT),
            float((columns[-1] + 1) / FRAME_WIDTH),
            float((rows[-1] + 1) / FRAME_HEIGHT),
        ),
        track_id=standing.track_id,
        visible=placed.visible,
        attributes={
            **standing.appearance.attributes(),
            "occlusion": placed.visible < OCCLUDED_BELOW,
            "facing_camera": standing.pose.facing,
        },
    )


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.scenes", description="Write simulated store frames")
    parser.add_argument("--output", type=Path, required=True, help="folder for shards/ and truth.parquet")
    parser.add_argument("--frames", type=int, default=200, help="number of frames")
    parser.add_argument("--seed", type=int, default=0, help="seed that stands for a store")
    parser.add_argument("--frames-per-shard", type=int, default=50)
    parser.add_argument("--sequences", action="store_true", help="show the same people for longer")
    given = parser.parse_args()
    write_shards(given.output, given.seed, given.frames, given.frames_per_shard, given.sequences)


if __name__ == "__main__":
    _main()
