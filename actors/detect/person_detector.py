"""Find the people in frames with YOLOv8n, or any other ultralytics YOLO detector with a person class."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from actors.detect.backends import (
    Session,
    letterbox_of,
    onnx_session,
    person_boxes,
    to_frame,
    torch_detector,
)
from actors.detect.openvino_network import OpenVinoNetwork
from actors.detect.settings import DetectorSettings, ResolvedDetector
from actors.errors import FrameError, WeightsError


class PersonDetector:
    """A loaded detection network.

    With the same weights, backend and precision, its boxes match those of `ultralytics` to 0.05 px and its
    scores to 0.001. They aren't identical because the same operations are compiled in another order.

    Raises:
        WeightsError: The backend isn't installed on this machine.
    """

    def __init__(self, settings: DetectorSettings, resolved: ResolvedDetector) -> None:
        self._settings = settings
        self._resolved = resolved
        cv2.setNumThreads(settings.threads)
        try:
            self._detect = self._torch() if resolved.backend == "torch" else self._light(self._session())
        except ImportError as error:
            raise WeightsError(
                f"detector.backend: {resolved.backend} isn't installed on this machine: {error}"
            ) from error

    def detect(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Find the people of each image.

        Images are processed one at a time: on a CPU, batches gain nothing and need frames of one shape.

        Args:
            images: (height, width, 3) uint8, BGR, of any size.

        Returns:
            For each image an (n, 5) float32 array: x1, y1, x2, y2 in pixels of the image, and the score,
            in descending order of score.

        Raises:
            FrameError: An image has no pixels or another layout.
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise FrameError(f"can't detect in an image of shape {image.shape} and type {image.dtype}")
        return [self._detect(image) for image in images]

    def _session(self) -> Session:
        files, settings = self._resolved.files, self._settings
        if self._resolved.backend == "openvino":
            return OpenVinoNetwork(files[0], files[1], self._resolved.float_precision, settings.threads)
        return onnx_session(files[0], settings.threads)

    def _light(self, session: Session) -> Session:
        settings, resolved = self._settings, self._resolved
        size = -(-settings.image_size // resolved.stride) * resolved.stride

        def detect(image: np.ndarray) -> np.ndarray:
            height, width = image.shape[:2]
            letterbox = letterbox_of(height, width, size, resolved.stride)
            boxes = person_boxes(
                session(letterbox.apply(image)),
                person=resolved.person,
                confidence=settings.confidence,
                iou=settings.iou,
                most=settings.max_detections,
            )
            return to_frame(boxes, letterbox, height, width)

        return detect

    def _torch(self) -> Session:
        settings, resolved = self._settings, self._resolved
        predict = {
            "conf": settings.confidence,
            "iou": settings.iou,
            "max_det": settings.max_detections,
            "imgsz": settings.image_size,
            "classes": [resolved.person],
        }
        return torch_detector(resolved.files[0], settings.device, settings.threads, predict)
