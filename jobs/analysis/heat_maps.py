"""Heat maps of where people stand, drawn over a camera's empty view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa

from actors.errors import FrameError, ShardError, ShardUnavailableError, StoreError
from actors.read.frame_decoder import decode_frame
from actors.read.settings import InputSettings
from actors.storage.commit_record import read_record
from actors.storage.layout import object_name
from actors.storage.object_store import ObjectStore
from jobs.analysis.observations import Observations
from jobs.exchange.frame_files import frames_of

COLUMNS, ROWS = 64, 36
"""Cells of a heat map."""
_EMPTY_FRAMES = 5
_WIDTH_PX = 960
_SPREAD_CELLS = 1.0
"""Standard deviation of the smoothing. A box's foot point is about so far from the feet."""
_GREY = 60
_MOST_OPAQUE = 0.85
_JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One camera's heat map as JPEG.

    Attributes:
        camera: The camera.
        picture: The JPEG.
        empty_frames: Number of empty frames whose median is the background; 0 for a grey one.
        trouble: Why the background is grey or rests on fewer frames, or None.
    """

    camera: str
    picture: bytes
    empty_frames: int
    trouble: str | None

    @property
    def file_name(self) -> str:
        """Name of the picture in the folder of the analysis."""
        return f"heat-map-{object_name(self.camera)}.jpg"


def foot_points(seen: Observations) -> pa.Table:
    """Return how long people's feet were in each cell of a camera's view.

    The columns are `camera`, `column` (0 to 63 from the left), `row` (0 to 35 from the top), `persons` (in
    frames) and `person_seconds`.
    """
    return seen.rows(
        f"""
        SELECT camera, greatest(0, least({COLUMNS} - 1, floor((x1 + x2) / 2 * {COLUMNS})))::INTEGER AS column,
            greatest(0, least({ROWS} - 1, floor(y2 * {ROWS})))::INTEGER AS row,
            count(*) AS persons, sum(seconds) AS person_seconds
        FROM people JOIN frames USING (frame) WHERE NOT staff
        GROUP BY ALL ORDER BY ALL
        """
    )


def draw_heat_maps(
    seen: Observations, points: pa.Table, store: ObjectStore, inputs: InputSettings
) -> Iterator[HeatMap]:
    """Draw the cells of `foot_points` over each camera's background, which is read from the input again.

    Args:
        seen: The frames.
        points: The cells.
        store: The output.
        inputs: How to read frames.
    """
    cells: defaultdict[str, list[tuple[int, int, int, float]]] = defaultdict(list)
    for row in points.to_pylist():
        cells[row["camera"]].append((row["column"], row["row"], row["persons"], row["person_seconds"]))
    for camera in seen.cameras():
        background, number, trouble = _background(seen, camera, store, inputs)
        yield HeatMap(camera, _draw(background, cells[camera]), number, trouble)


def _background(
    seen: Observations, camera: str, store: ObjectStore, inputs: InputSettings
) -> tuple[np.ndarray, int, str | None]:
    """Return the median of some empty frames, their number, and what is missing.

    The median is (height, width, 3) uint8 BGR.
    """
    wanted = _empty_frames(seen, camera)
    images: list[np.ndarray] = []
    trouble = None if wanted else "no frame without people"
    for shard_id, keys in wanted.items():
        try:
            images += _read(store, shard_id, keys, inputs)
        except (FrameError, ShardError, ShardUnavailableError, StoreError) as error:
            trouble = str(error)
    if not images:
        return np.full((_WIDTH_PX * ROWS // COLUMNS, _WIDTH_PX, 3), _GREY, np.uint8), 0, trouble
    height, width = images[0].shape[:2]
    size = (_WIDTH_PX, max(1, round(_WIDTH_PX * height / width)))
    scaled = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
    return np.median(scaled, axis=0).astype(np.uint8), len(images), trouble


def _empty_frames(seen: Observations, camera: str) -> dict[str, list[str]]:
    """Return a camera's empty frames by shard, a few that are spread over time."""
    found = seen.database.execute(
        "SELECT shard_id, frame_key FROM frames WHERE camera = ? AND empty "
        "QUALIFY row_number() OVER (ORDER BY frame) IN (SELECT 1 + (n - 1) * i // ? FROM "
        "(SELECT count(*) AS n FROM frames WHERE camera = ? AND empty), range(?) AS places(i))",
        [camera, _EMPTY_FRAMES - 1, camera, _EMPTY_FRAMES],
    ).fetchall()
    by_shard: dict[str, list[str]] = {}
    for shard_id, key in found:
        by_shard.setdefault(shard_id, []).append(key)
    return by_shard


def _read(store: ObjectStore, shard_id: str, keys: Iterable[str], inputs: InputSettings) -> list[np.ndarray]:
    record = read_record(store, shard_id)
    if record is None:
        raise ShardUnavailableError(f"shard {shard_id} is no longer committed")
    frames = frames_of(record[0], set(keys), inputs, store.settings)
    return [decode_frame(data, inputs.max_image_pixels) for _, data in frames]


def _draw(background: np.ndarray, cells: Sequence[tuple[int, int, int, float]]) -> bytes:
    """Draw cells over a background: the more time, or else the more persons, the warmer and denser."""
    weights = np.zeros((ROWS, COLUMNS), np.float32)
    timed = any(seconds for *_, seconds in cells)
    for column, row, persons, seconds in cells:
        weights[row, column] = seconds if timed else persons
    height, width = background.shape[:2]
    smooth = cv2.GaussianBlur(weights, (0, 0), _SPREAD_CELLS)
    heat = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC).clip(0)
    # The square root shows ways beside the places where people wait for minutes.
    share = np.sqrt(heat / heat.max()) if heat.max() > 0 else heat
    colours = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    grey = cv2.cvtColor(cv2.cvtColor(background, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    opacity = (share * _MOST_OPAQUE)[:, :, None]
    mixed = (grey * (1 - opacity) + colours * opacity).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", mixed, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(encoded)
