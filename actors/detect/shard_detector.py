"""The detect stage for one shard: reading, decoding, detection, selection and cropping in one pass."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from queue import Queue
from threading import Event, Thread

import numpy as np
import pyarrow as pa

from actors.detect.crops import CropSettings, cut_person
from actors.detect.person_detector import PersonDetector
from actors.detect.roi import PersonBoxes, RoiSettings, select_candidates, select_persons
from actors.detect.settings import DetectorSettings, ResolvedDetector
from actors.errors import FrameError, ShardError
from actors.fingerprint import crop_sha256
from actors.read.frame_decoder import decode_frame
from actors.read.frame_range import frames_of
from actors.read.frames import read_frames
from actors.read.jpeg_decoder import PixelBuffer
from actors.read.settings import InputSettings
from actors.records import FRAMES_SCHEMA, PERSONS_SCHEMA, Frame
from actors.shard_block import ReportProgress, ShardBlock, report_nothing
from actors.storage.settings import StorageSettings

_READ_AHEAD = 4
"""Number of encoded frames to read ahead: enough to hide the store's latency at little cost in memory."""

MIN_FRAMES_OF_SHARE = 10
"""A share of fewer frames says little: one bad image would fail a folder's last group, on every run."""

_ROW_BYTES = 256
"""Assumed size of a row of the frames or persons, without the crop. Without it, a shard of many empty frames
would have no limit."""

_FAILURES_NAMED = 3
_LONGEST_REASON = 200


@dataclass(slots=True)
class _FramePeople:
    """The people of one decoded frame.

    Attributes:
        frame: The frame as it was read, without its encoded image.
        width: Width of the frame, in pixels.
        height: Height of the frame, in pixels.
        boxes: (n, 5) float32: x1, y1, x2, y2 in pixels of the frame, and the score.
        drops: For each person, the drop reason, or None if kept.
        crops: For each person, the JPEG, or None if dropped or left out by `crops.max_frame_bytes`.
    """

    frame: Frame
    width: int
    height: int
    boxes: np.ndarray
    drops: list[str | None]
    crops: list[bytes | None]

    def again(self, frame: Frame) -> _FramePeople:
        """Return the same people for a frame with the same bytes, such as that of a still camera."""
        return _FramePeople(
            replace(frame, data=None), self.width, self.height, self.boxes, list(self.drops), list(self.crops)
        )

    def normalised(self) -> np.ndarray:
        """Return the boxes as shares of the frame, (n, 4) float32."""
        size = np.array([self.width, self.height, self.width, self.height], np.float32)
        return np.clip(self.boxes[:, :4] / size, 0, 1).astype(np.float32)


@dataclass
class ShardDetector:
    """Detects the people of whole shards; the model is loaded once.

    Attributes:
        input: How to read frames, and their limits.
        storage: How to reach the bucket.
        detector: The detector's settings.
        resolved: The weights and backend that the detector's settings resolve to.
        roi: Which people are kept.
        crops: How people are cut out.
        max_failed_frames: Largest share of frames that may fail before the whole shard fails, for shards of
            at least `MIN_FRAMES_OF_SHARE` frames.
    """

    input: InputSettings
    storage: StorageSettings
    detector: DetectorSettings
    resolved: ResolvedDetector
    roi: RoiSettings
    crops: CropSettings
    max_failed_frames: float

    @cached_property
    def _model(self) -> PersonDetector:
        return PersonDetector(self.detector, self.resolved)

    @cached_property
    def _pixels(self) -> PixelBuffer:
        return PixelBuffer()

    def load(self) -> None:
        """Load the model now instead of with the first frame.

        Raises:
            WeightsError: The model can't be loaded on this machine.
        """
        _ = self._model

    def detect(self, block: ShardBlock, report_progress: ReportProgress = report_nothing) -> ShardBlock:
        """Return the block with its frames, persons and previews.

        If the shard can't be read, or too many of its frames fail, the block has an error and the frames
        that were read until then. A frame's encoded image is kept only if it is drawn as a preview.

        If the crops would be larger than `crops.max_block_bytes`, the block ends before the frame that
        exceeds it, and the `stop_frame` of its shard says so. A block has at least one frame.
        """
        people: list[_FramePeople] = []
        failed: list[Frame] = []
        previous: tuple[bytes | None, _FramePeople] | None = None
        previews = _PreviewSample(block.task.previews)
        trouble: ShardError | None = None
        is_decided_by_frame = self.roi.dynamic.scope == "frame"
        shard, size_bytes = block.task.shard, 0
        try:
            with closing(_read_ahead(read_frames(shard, self.input, self.storage))) as frames:
                for number, frame in enumerate(frames, shard.first_frame):
                    if previous is not None and frame.data is not None and frame.data == previous[0]:
                        found: _FramePeople | Frame = previous[1].again(frame)
                    else:
                        found = self._detect_frame(frame)
                    size_bytes += _size_of(found)
                    if size_bytes > self.crops.max_block_bytes and number > shard.first_frame:
                        block = _ending_before(block, number)
                        break
                    if isinstance(found, Frame):
                        failed.append(found)
                        report_progress(1)
                        continue
                    people.append(found)
                    previous = frame.data, found
                    previews.offer(frame, len(found.boxes))
                    report_progress(1, found.drops.count(None) if is_decided_by_frame else 0)
        except ShardError as error:
            trouble = error
        if not is_decided_by_frame:
            self._select_over_shard(people)
            report_progress(0, sum(found.drops.count(None) for found in people))
        read = [*(found.frame for found in people), *failed]
        block = replace(
            block,
            frames=_frames_table(shard.shard_id, people, failed),
            keys_not_matched=self._count_unmatched(read),
        )
        if trouble is not None:
            return block.failed(str(trouble))
        total = len(read)
        if total >= MIN_FRAMES_OF_SHARE and len(failed) / total > self.max_failed_frames:
            return block.failed(
                f"{len(failed)} of {total} frames failed, more than run.max_failed_frames="
                f"{self.max_failed_frames} allows: {_describe_failures(failed)}"
            )
        return replace(block, persons=_persons_table(shard.shard_id, people), previews=previews.chosen())

    def _count_unmatched(self, frames: list[Frame]) -> int | None:
        if self.input.key_pattern is None:
            return None
        return sum(frame.is_key_matched is False for frame in frames)

    def _detect_frame(self, frame: Frame) -> _FramePeople | Frame:
        """Return the people of a frame, or the frame with its error and without its content."""
        try:
            image = self._decode(frame)
            boxes = self._model.detect([image])[0]
            height, width = image.shape[:2]
            found = _FramePeople(replace(frame, data=None), width, height, boxes, [], [])
            found.drops = self._select_in_frame(found)
            found.crops = self._cut(image, found)
        except FrameError as error:
            return replace(frame, data=None, error=str(error))
        return found

    def _select_in_frame(self, found: _FramePeople) -> list[str | None]:
        """Return the drop reasons as far as this frame alone decides them.

        With a wider scope the others are decided after the shard's last frame. This frame's pixels are gone
        by then, so everyone who may still be kept is cut out now, and the crops of dropped people are
        discarded as soon as it is decided.
        """
        persons = _boxes_of([found])
        if self.roi.dynamic.scope == "frame":
            return select_persons(self.roi, persons)
        return select_candidates(self.roi, persons)

    def _cut(self, image: np.ndarray, found: _FramePeople) -> list[bytes | None]:
        """Cut out the people who aren't dropped, in the order of their scores, within the frame's limit."""
        crops: list[bytes | None] = []
        size_bytes = 0
        for bbox, drop in zip(found.normalised(), found.drops, strict=True):
            crop = None
            if drop is None and size_bytes < self.crops.max_frame_bytes:
                crop = cut_person(image, bbox, self.crops)
                size_bytes += len(crop)
            crops.append(crop)
        if self.roi.dynamic.scope == "frame":
            found.drops = _with_missing_crops(found.drops, crops)
        return crops

    def _decode(self, frame: Frame) -> np.ndarray:
        if frame.data is None:
            raise FrameError(frame.error or "not readable")
        # Nothing keeps pixels beyond its frame, so the next one may overwrite them.
        return decode_frame(frame.data, self.input.max_image_pixels, self._pixels)

    def _select_over_shard(self, people: list[_FramePeople]) -> None:
        verdicts = iter(select_persons(self.roi, _boxes_of(people)))
        for found in people:
            drops = [next(verdicts) for _ in found.drops]
            found.crops = [
                crop if drop is None else None for crop, drop in zip(found.crops, drops, strict=True)
            ]
            found.drops = _with_missing_crops(drops, found.crops)


def _size_of(found: _FramePeople | Frame) -> int:
    """Return about how much a frame adds to the size of a block, in bytes."""
    if isinstance(found, Frame):
        return _ROW_BYTES
    crops = sum(len(crop) for crop in found.crops if crop is not None)
    return crops + _ROW_BYTES * (1 + len(found.boxes))


def _ending_before(block: ShardBlock, frame: int) -> ShardBlock:
    shard = block.task.shard
    return replace(block, task=replace(block.task, shard=frames_of(shard, shard.first_frame, frame)))


def _with_missing_crops(drops: list[str | None], crops: list[bytes | None]) -> list[str | None]:
    """Return the drop reasons, with that of a full frame for people who have none and no crop either."""
    return [
        "max_frame_bytes" if drop is None and crop is None else drop
        for drop, crop in zip(drops, crops, strict=True)
    ]


def _describe_failures(failed: list[Frame]) -> str:
    """Describe the first failed frames of a shard, and say how many more there are."""
    shown = [f"{frame.key[:_LONGEST_REASON]}: {str(frame.error)[:_LONGEST_REASON]}" for frame in failed]
    more = len(failed) - _FAILURES_NAMED
    return "; ".join(shown[:_FAILURES_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _boxes_of(people: list[_FramePeople]) -> PersonBoxes:
    counts = [len(p.boxes) for p in people]
    return PersonBoxes(
        frame=np.repeat(np.arange(len(people)), counts),
        camera=[p.frame.camera for p, n in zip(people, counts, strict=True) for _ in range(n)],
        bbox=np.concatenate([p.normalised() for p in people] or [np.zeros((0, 4), np.float32)]),
        frame_height_px=np.repeat([p.height for p in people], counts).astype(np.int32),
        score=np.concatenate([p.boxes[:, 4] for p in people] or [np.zeros(0, np.float32)]),
    )


def _frames_table(shard_id: str, people: list[_FramePeople], failed: list[Frame]) -> pa.Table:
    rows = [
        {
            "width": p.width,
            "height": p.height,
            "detected": len(p.drops),
            "kept": p.drops.count(None),
            "status": "ok",
            **_frame_columns(shard_id, p.frame),
        }
        for p in people
    ]
    rows += [{"detected": 0, "kept": 0, "status": "error", **_frame_columns(shard_id, f)} for f in failed]
    # A failed frame may have the same key as a good one (a duplicate); the good one is sorted first.
    rows.sort(key=lambda row: (row["frame_key"], row["status"] != "ok", row["error"] or ""))
    return pa.Table.from_pylist(rows, FRAMES_SCHEMA)


def _frame_columns(shard_id: str, frame: Frame) -> dict[str, object]:
    return {
        "shard_id": shard_id,
        "frame_key": frame.key,
        "camera": frame.camera,
        "captured_at": frame.captured_at,
        "error": frame.error,
        "note": frame.note,
    }


def _persons_table(shard_id: str, people: list[_FramePeople]) -> pa.Table:
    rows = []
    for found in sorted(people, key=lambda p: p.frame.key):
        for index, bbox in enumerate(found.normalised()):
            crop = found.crops[index]
            rows.append(
                {
                    "shard_id": shard_id,
                    "frame_key": found.frame.key,
                    "person_index": index,
                    "bbox": bbox,
                    "score": found.boxes[index, 4],
                    "kept": found.drops[index] is None,
                    "drop_reason": found.drops[index],
                    "crop": crop,
                    "crop_sha256": None if crop is None else crop_sha256(crop),
                }
            )
    return pa.Table.from_pylist(rows, PERSONS_SCHEMA)


class _PreviewSample:
    """Selects the frames to draw as previews.

    Frames with people are preferred; between equals the hash of the key decides, so the choice doesn't
    depend on the order of the frames.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[bool, bytes, str, bytes]] = []

    def offer(self, frame: Frame, people: int) -> None:
        if not self._size or frame.data is None:
            return
        rank = hashlib.sha256(frame.key.encode()).digest()
        entry = (people > 0, rank, frame.key, frame.data)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def chosen(self) -> dict[str, bytes]:
        return {key: data for _, _, key, data in sorted(self._heap, key=lambda entry: entry[2])}


def _read_ahead(frames: Iterator[Frame]) -> Generator[Frame]:
    """Yield the same frames, which a thread reads while the consumer works on earlier ones."""
    queue: Queue[Frame | BaseException | None] = Queue(_READ_AHEAD)
    stopped = Event()

    def put(item: Frame | BaseException | None) -> None:
        if not stopped.is_set():
            queue.put(item)

    def read() -> None:
        try:
            for frame in frames:
                put(frame)
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  it is raised again in the consumer's thread
            put(error)
        else:
            put(None)

    thread = Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        while not queue.empty():
            queue.get_nowait()
        thread.join()
