"""The detector's arithmetic: letterbox, one network session a backend, and what follows it.

Equal to what `ultralytics` does around the same network, with numpy and OpenCV alone, so that a
detector process needs neither torch nor ultralytics (seconds of start-up and most of a gigabyte).
The tests compare the two.
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
"""Boxes that go into suppression at most, as in ultralytics."""

Session = Callable[[np.ndarray], np.ndarray]
"""(height, width, 3) uint8 BGR, letterboxed, to the network's first output without its batch axis."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How a frame is scaled and padded for the network, and how boxes find the way back.

    Attributes:
        width: Of the scaled frame, in pixels.
        height: Likewise.
        padding: Pixels added at the top, bottom, left and right.
        scale_x: Network pixels a frame pixel.
        scale_y: Likewise.
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
    """The smallest multiple of the stride that holds a frame scaled to `size` on its longer side.

    Args:
        height: Of the frame, in pixels.
        width: Likewise.
        size: Longer side of the network's input, in pixels.
        stride: Of the network, in pixels.
    """
    scale = min(size / height, size / width)
    scaled_w, scaled_h = max(round(width * scale), 1), max(round(height * scale), 1)
    pad_x, pad_y = (size - scaled_w) % stride / 2, (size - scaled_h) % stride / 2
    # The tenth decides which side gets the odd pixel.
    padding = (round(pad_y - 0.1), round(pad_y + 0.1), round(pad_x - 0.1), round(pad_x + 0.1))
    return Letterbox(scaled_w, scaled_h, padding, scaled_w / width, scaled_h / height)


def person_boxes(output: np.ndarray, *, person: int, confidence: float, iou: float, most: int) -> np.ndarray:
    """The persons in a network's output.

    A box counts where person is the best of all its classes and scores above `confidence`. Of those
    that overlap by more than `iou`, the higher score stays.

    Args:
        output: (4 + classes, boxes) float32: centre x, centre y, width, height, class scores. Or, of
            networks that suppress duplicates themselves, (boxes, 6): x1, y1, x2, y2, score, class.
        person: Index of the class.
        confidence: Lowest score, exclusive.
        iou: Intersection over union above which a box is a duplicate.
        most: Boxes returned at most.

    Returns:
        (n, 5) float32: x1, y1, x2, y2 in pixels of the network's input, score; descending.
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
    """Indices of the (n, 5) boxes, in descending score, that no earlier kept one overlaps too much."""
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
    """Boxes (n, 5) in pixels of the network's input to pixels of the frame, clamped to it, in place."""
    top, _, left, _ = letterbox.padding
    boxes[:, [0, 2]] = ((boxes[:, [0, 2]] - left) / letterbox.scale_x).clip(0, width)
    boxes[:, [1, 3]] = ((boxes[:, [1, 3]] - top) / letterbox.scale_y).clip(0, height)
    return boxes


def openvino_session(xml: bytes, weights: bytes, precision: str, threads: int) -> Session:
    """A session of OpenVINO on the CPU; `precision` is float32 or bfloat16."""
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(xml, weights),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": "1",
            # Pinned, all actors of a node would sit on its first cores.
            "ENABLE_CPU_PINNING": "NO",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        },
    )
    request = compiled.create_infer_request()

    def run(image: np.ndarray) -> np.ndarray:
        request.infer({0: ov.Tensor(_planes(image), shared_memory=True)})
        return np.asarray(request.get_output_tensor(0).data[0])

    return run


def onnx_session(model: bytes, threads: int) -> Session:
    """A session of ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {name: _planes(image)})[0][0])

    return run


def _planes(image: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8 BGR to (1, 3, height, width) float32 RGB in 0..1.

    OpenVINO could do this within the network, but in bfloat16 it would round on the way, and single
    scores then move by up to 0.4. It costs 0.6 ms.
    """
    planes = np.empty((1, 3, *image.shape[:2]), np.float32)
    for channel in range(3):
        np.divide(image[:, :, 2 - channel], np.float32(255), out=planes[0, channel], casting="unsafe")
    return planes


def torch_detector(
    checkpoint: bytes, device: str, threads: int, predict: dict[str, Any]
) -> Callable[[np.ndarray], np.ndarray]:
    """Ultralytics itself: a frame to (n, 5) boxes in its pixels, and score.

    Args:
        checkpoint: Content of the `.pt` file.
        device: As torch names it.
        threads: Of torch, on the CPU.
        predict: Arguments of `YOLO.predict`.
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
