"""The detector's arithmetic: letterboxing, one network session per backend, and post-processing.

It reproduces what `ultralytics` does around the same network, but uses only numpy and OpenCV. A detector
process therefore needs neither torch nor ultralytics, which saves seconds of start-up and most of a
gigabyte of memory. The tests compare the two implementations.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

_PADDING = (114, 114, 114)
_MAX_CANDIDATES = 30_000
"""Maximum number of boxes that enter non-maximum suppression, as in ultralytics."""

Session = Callable[[np.ndarray], np.ndarray]
"""Maps a letterboxed (height, width, 3) uint8 BGR image to the network's first output (no batch axis)."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How a frame is scaled and padded for the network, and how boxes are mapped back to the frame.

    Attributes:
        width: Width of the scaled frame, in pixels.
        height: Height of the scaled frame, in pixels.
        padding: Pixels added at the top, bottom, left and right.
        scale_x: Network pixels per frame pixel, horizontally.
        scale_y: Network pixels per frame pixel, vertically.
    """

    width: int
    height: int
    padding: tuple[int, int, int, int]
    scale_x: float
    scale_y: float

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Scale and pad a (height, width, 3) uint8 frame."""
        if image.shape[1::-1] != (self.width, self.height):
            image = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        return cv2.copyMakeBorder(image, *self.padding, cv2.BORDER_CONSTANT, value=_PADDING)


@lru_cache(maxsize=1024)
def letterbox_of(height: int, width: int, size: int, stride: int) -> Letterbox:
    """Scale a frame's longer side to `size` and pad both sides to the next multiple of the stride.

    Args:
        height: Height of the frame, in pixels.
        width: Width of the frame, in pixels.
        size: Longer side of the network's input, in pixels.
        stride: Stride of the network, in pixels.
    """
    scale = min(size / height, size / width)
    scaled_w, scaled_h = max(round(width * scale), 1), max(round(height * scale), 1)
    pad_x, pad_y = (size - scaled_w) % stride / 2, (size - scaled_h) % stride / 2
    # If the padding is odd, the 0.1 gives the extra pixel to the bottom or right, as in ultralytics.
    padding = (round(pad_y - 0.1), round(pad_y + 0.1), round(pad_x - 0.1), round(pad_x + 0.1))
    return Letterbox(scaled_w, scaled_h, padding, scaled_w / width, scaled_h / height)


def person_boxes(output: np.ndarray, *, person: int, confidence: float, iou: float, most: int) -> np.ndarray:
    """Return the persons in a network's output.

    A box is a person if person is its best class and scores above `confidence`. If boxes overlap by more
    than `iou`, only the one with the highest score is kept.

    Args:
        output: (4 + classes, boxes) float32 with centre x, centre y, width, height and class scores.
            Networks that suppress duplicates themselves return (boxes, 6) instead: x1, y1, x2, y2, score
            and class.
        person: Index of the class "person".
        confidence: Lowest score, exclusive.
        iou: Intersection over union above which a box is a duplicate.
        most: Maximum number of boxes to return.

    Returns:
        (n, 5) float32: x1, y1, x2, y2 in pixels of the network's input, and the score, in descending order
        of score.
    """
    if output.shape[1] == 6:
        rows = output[(output[:, 4] > confidence) & (output[:, 5] == person)]
        return np.array(rows[:most, :5], np.float32)
    rows = output[:, np.flatnonzero(output[4 + person] > confidence)]
    rows = rows[:, rows[4:].argmax(axis=0) == person]
    half = rows[2:4] / 2
    boxes = np.concatenate([rows[:2] - half, rows[:2] + half, rows[4 + person][None]]).T
    boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")[:_MAX_CANDIDATES]]
    return boxes[_suppress(boxes, iou, most)]


def _suppress(boxes: np.ndarray, iou: float, most: int) -> list[int]:
    """Return the indices of the (n, 5) boxes, sorted by descending score, that remain without duplicates."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[:, :4].T)
    area = (x2 - x1) * (y2 - y1)
    left = np.arange(len(boxes))
    kept: list[int] = []
    while left.size and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        width = np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left])
        height = np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        with np.errstate(invalid="ignore"):
            left = left[shared / (area[best] + area[left] - shared) <= iou]
    return kept


def to_frame(boxes: np.ndarray, letterbox: Letterbox, height: int, width: int) -> np.ndarray:
    """Map (n, 5) boxes in place from pixels of the network's input to pixels of the frame, and clamp them."""
    top, _, left, _ = letterbox.padding
    boxes[:, [0, 2]] = ((boxes[:, [0, 2]] - left) / letterbox.scale_x).clip(0, width)
    boxes[:, [1, 3]] = ((boxes[:, [1, 3]] - top) / letterbox.scale_y).clip(0, height)
    return boxes


def onnx_session(model: bytes, threads: int) -> Session:
    """Create an ONNX Runtime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {name: planes_of(image)})[0][0])

    return run


def planes_of(image: np.ndarray) -> np.ndarray:
    """Convert (height, width, 3) uint8 BGR to (1, 3, height, width) float32 RGB in 0..1.

    OpenVINO could do this inside the network, but in bfloat16 the rounding would change single scores by up
    to 0.4. Doing it here costs 0.6 ms.
    """
    planes = np.empty((1, 3, *image.shape[:2]), np.float32)
    fill_planes(planes, image)
    return planes


def fill_planes(planes: np.ndarray, image: np.ndarray) -> None:
    """Write what `planes_of` returns into an array of that shape."""
    for channel in range(3):
        np.divide(image[:, :, 2 - channel], np.float32(255), out=planes[0, channel], casting="unsafe")


def torch_detector(
    checkpoint: bytes, device: str, threads: int, predict: dict[str, Any]
) -> Callable[[np.ndarray], np.ndarray]:
    """Create a detector that runs ultralytics itself.

    Args:
        checkpoint: Content of the `.pt` file.
        device: Name of the device in torch.
        threads: Number of CPU threads that torch uses.
        predict: Arguments of `YOLO.predict`.

    Returns:
        A function that maps a frame to its (n, 5) float32 boxes: x1, y1, x2, y2 in pixels of the frame, and
        the score.
    """
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false", YOLO_OFFLINE="1")
    os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")
    import torch
    from ultralytics.models import YOLO

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pt")
        path.write_bytes(checkpoint)
        model: Any = YOLO(str(path), task="detect", verbose=False)
    model.to(device)

    def detect(image: np.ndarray) -> np.ndarray:
        found = model.predict(image, device=device, verbose=False, save=False, **predict)[0].boxes.data
        return np.ascontiguousarray(found.cpu().numpy()[:, :5], np.float32)

    return detect
