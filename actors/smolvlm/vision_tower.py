"""The vision tower of a SmolVLM as a network of OpenVINO, which CPUs run faster than torch does.

The network contains the vision model and the connector. It takes one picture at a time, so that no feature
depends on the other pictures of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actors.errors import WeightsError
from actors.telemetry import refuse_telemetry


class _Tower(nn.Module):
    """The part of a SmolVLM that turns a picture without padding into features."""

    def __init__(self, model: Any, side_px: int) -> None:
        super().__init__()
        self.vision, self.connector = model.vision_model, model.connector
        patches = side_px // model.config.vision_config.patch_size
        self.register_buffer("mask", torch.ones(1, patches, patches, dtype=torch.bool), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map a picture (1, 3, side, side) to features (1, tokens, width)."""
        seen = self.vision(pixel_values=pixels, patch_attention_mask=self.mask).last_hidden_state
        features: Tensor = self.connector(seen)
        return features


def export_tower(model: Any, side_px: int) -> tuple[bytes, bytes]:
    """Return the vision tower of a model in float32, as XML and weights.

    Args:
        model: SmolVLMForConditionalGeneration or Idefics3ForConditionalGeneration on the CPU.
        side_px: Side of a picture in pixels.

    Raises:
        WeightsError: OpenVINO can't convert the model.
    """
    refuse_telemetry()
    import openvino as ov

    tower = _Tower(model.model, side_px).float().eval()
    shape = (1, 3, side_px, side_px)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            # Tracing warns that shapes become constants, which they are.
            warnings.simplefilter("ignore")
            network = ov.convert_model(tower, example_input=torch.zeros(shape), input=[list(shape)])
    except (RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(f"smolvlm.vision: OpenVINO can't convert the vision tower: {error}") from error
    return _saved(network)


def quantised_tower(files: Sequence[bytes], pictures: Sequence[np.ndarray]) -> tuple[bytes, bytes]:
    """Return a tower in int8, as XML and weights.

    Args:
        files: XML and weights of the tower in float32.
        pictures: Pictures to measure the ranges of values on, (3, side, side) float32.
    """
    refuse_telemetry()
    import nncf
    import openvino as ov

    network = nncf.quantize(
        ov.Core().read_model(files[0], files[1]),
        nncf.Dataset([picture[None] for picture in pictures]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(pictures),
    )
    return _saved(network)


def _saved(network: Any) -> tuple[bytes, bytes]:
    import openvino as ov

    with TemporaryDirectory() as folder:
        xml = Path(folder, "network.xml")
        ov.save_model(network, xml, compress_to_fp16=False)
        return xml.read_bytes(), xml.with_suffix(".bin").read_bytes()


class VisionTower:
    """Runs a tower. It isn't thread-safe.

    Args:
        files: XML and weights.
        arithmetic: Precision of the layers that aren't quantised.
        threads: Number of threads.
    """

    def __init__(self, files: Sequence[bytes], arithmetic: str, threads: int) -> None:
        refuse_telemetry()
        import openvino as ov

        core = ov.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": "NO",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[arithmetic],
        }
        compiled = core.compile_model(core.read_model(files[0], files[1]), "CPU", settings)
        self._request = compiled.create_infer_request()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map pictures (rows, 1, 3, side, side) to the features of each, (rows, tokens, width) float32."""
        found = []
        for picture in pixels[:, 0]:
            self._request.get_input_tensor(0).data[0] = picture.float().numpy()
            self._request.infer()
            found.append(torch.from_numpy(self._request.get_output_tensor(0).data[0].copy()))
        return torch.stack(found)
