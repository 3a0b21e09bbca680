"""Run a network with OpenVINO on the CPU, compiled for the input shapes that the cameras give."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from actors.detect.backends import fill_planes, planes_of
from actors.detect.settings import FloatPrecision
from actors.telemetry import refuse_telemetry

Shape = tuple[int, int]
"""Height and width of a letterboxed frame, in pixels."""

MOST_SHAPES = 4
_FRAMES_WORTH_COMPILING = 512
"""Compiling takes about as long as a fixed shape saves in so many frames."""


class OpenVinoNetwork:
    """A session of the network.

    A frame takes 5 to 10% less time in a network that is compiled for its shape. The first four shapes
    get such a network each. All others share one for every shape, until one of them has come so often that it
    takes the place of the shape that was used least recently. The outputs are the same, bit for bit, so they
    don't depend on the frames before.

    Args:
        xml: The network.
        weights: Its weights.
        precision: Precision of the layers that aren't quantised.
        threads: Number of threads.
        frames_worth_compiling: Number of frames of a shape that are worth compiling for it.
    """

    def __init__(
        self,
        xml: bytes,
        weights: bytes,
        precision: FloatPrecision,
        threads: int,
        frames_worth_compiling: int = _FRAMES_WORTH_COMPILING,
    ) -> None:
        refuse_telemetry()
        import openvino as ov

        self._core = ov.Core()
        self._network = self._core.read_model(xml, weights)
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": "1",
            # With pinning, all actors of a node would run on its first cores.
            "ENABLE_CPU_PINNING": "NO",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        }
        self._frames_worth_compiling = frames_worth_compiling
        self._fixed: dict[Shape, Any] = {}
        self._for_all: Any = None
        self._frames: Counter[Shape] = Counter()

    @property
    def fixed_shapes(self) -> list[Shape]:
        """The shapes that have a network of their own, the one that was used last at the end."""
        return list(self._fixed)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Map a letterboxed (height, width, 3) uint8 BGR image to the first output without its batch axis."""
        shape = (image.shape[0], image.shape[1])
        request = self._fixed.pop(shape, None)
        if request is None and self._is_worth_compiling(shape):
            request = self._compile(shape)
        if request is None:
            return self._infer_any(image)
        self._fixed[shape] = request
        fill_planes(request.get_input_tensor(0).data, image)
        request.infer()
        return np.asarray(request.get_output_tensor(0).data[0])

    def _is_worth_compiling(self, shape: Shape) -> bool:
        if len(self._fixed) < MOST_SHAPES:
            return True
        self._frames[shape] += 1
        if self._frames[shape] < self._frames_worth_compiling:
            return False
        del self._frames[shape]
        del self._fixed[next(iter(self._fixed))]
        return True

    def _compile(self, shape: Shape | None) -> Any:
        network = self._network
        if shape is not None:
            network = network.clone()
            network.reshape({0: [1, 3, *shape]})
        return self._core.compile_model(network, "CPU", self._settings).create_infer_request()

    def _infer_any(self, image: np.ndarray) -> np.ndarray:
        import openvino as ov

        if self._for_all is None:
            self._for_all = self._compile(None)
        self._for_all.infer({0: ov.Tensor(planes_of(image), shared_memory=True)})
        return np.asarray(self._for_all.get_output_tensor(0).data[0])
