"""`shopframe annotate` with models that take a fixed time, for `benchmarks.overhead`.

    FIXED_MODEL_S=0.02 python -m benchmarks.fixed_models --input URI --output URI ...

Everything else is the job's own: reading, regions of interest, crops, blocks, known answers, commits.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from actors.detect.shard_detector import ShardDetector
from actors.records import Annotation, Frame
from actors.smolvlm.shard_annotator import ShardAnnotator
from jobs import annotate, command
from jobs.run import work_on_ray

SECONDS = float(os.environ.get("FIXED_MODEL_S", "0.02"))
"""CPU time of each model, for a frame or a person."""

_IMAGE = np.full((720, 1280, 3), 114, np.uint8)
_BOX = np.array([[600, 200, 728, 536, 0.9]], np.float32)
_MARK = 32
"""Size of the squares in the box that make each frame's crop another one, in pixels."""


def _work() -> None:
    """Use one core for the fixed time, as a model does, however busy the core is with other work."""
    started = time.thread_time()
    while time.thread_time() - started < SECONDS:
        pass


class _Network:
    def detect(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Find one person in each frame, always at the same place."""
        _work()
        return [_BOX] * len(images)


class FixedDetector(ShardDetector):
    """Reads frames, but doesn't look at them. Each crop is another one, or its answer would be known."""

    @cached_property
    def _model(self) -> _Network:  # type: ignore[override]
        return _Network()

    def _decode(self, frame: Frame) -> np.ndarray:
        image = _IMAGE.copy()
        bits = zlib.crc32(frame.data or b"")
        for place in range(32):
            if bits >> place & 1:
                top, left = 200 + place // 4 * _MARK, 600 + place % 4 * _MARK
                image[top : top + _MARK, left : left + _MARK] = 255
        return image


class _Engine:
    def __init__(self, answer: Annotation) -> None:
        self._answer = answer

    def annotate(
        self, crops: Sequence[bytes], answered: Callable[[int, Sequence[Annotation]], None]
    ) -> list[Annotation]:
        """Give the same answer about each crop."""
        for number in range(len(crops)):
            _work()
            answered(number, [self._answer])
        return [self._answer] * len(crops)


class FixedAnnotator(ShardAnnotator):
    """Answers without a model."""

    @cached_property
    def _engine(self) -> _Engine:
        values = {attribute.name: attribute.values[0] for attribute in self.schema}
        return _Engine(Annotation("ok", None, values, dict.fromkeys(values, 0.9)))


if __name__ == "__main__":
    # Ray's workers find the classes by the name of this module, which isn't the one that runs.
    from benchmarks import fixed_models

    vars(work_on_ray).update(
        ShardDetector=fixed_models.FixedDetector, ShardAnnotator=fixed_models.FixedAnnotator
    )
    command.run(annotate.annotate)
