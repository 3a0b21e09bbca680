"""Weights that are broken, or would run code."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.corpus.configurations import RunsCode
from tests.support import bad_inputs as bad

_FOLDER = {
    "config.json": b'{"model_type": "smolvlm"}',
    "processor_config.json": b"{}",
    "tokenizer.json": b"{}",
}


@dataclass(frozen=True)
class BadWeights:
    """A checkpoint that is refused before a run starts.

    Attributes:
        name: Name of the kind.
        files: A checkpoint of the detector (`model.pt`), or the files of a SmolVLM.
        says: A part of the message.
        environment: Variables that are set meanwhile.
    """

    name: str
    files: Mapping[str, bytes]
    says: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        return f"refused: {self.says}"


def _detector(name: str, content: bytes, says: str, **environment: str) -> BadWeights:
    return BadWeights(f"weights: {name}", {"model.pt": content}, says, environment)


def _smolvlm(name: str, files: Mapping[str, bytes], says: str) -> BadWeights:
    return BadWeights(f"weights: {name}", {**_FOLDER, **files}, says)


def safetensors(header: Mapping[str, object], data_bytes: int = 16) -> bytes:
    """Return a file of weights with any header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


_TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
_GOOD = safetensors({"a": _TENSOR})
_PICKLE = pickle.dumps(RunsCode())
_IN_A_ZIP = bad.zipped({"archive/data.pkl": _PICKLE, "archive/version": b"3\n"}, zipfile.ZIP_STORED)

WEIGHTS = (
    _detector("detector of no bytes", b"", "isn't a PyTorch checkpoint"),
    _detector("text named .pt", b"not a network", "isn't a PyTorch checkpoint"),
    _detector("pickle that runs a command, named .pt", _PICKLE, "isn't a PyTorch checkpoint"),
    _detector("checkpoint cut in half", _IN_A_ZIP[: len(_IN_A_ZIP) // 2], "isn't a PyTorch checkpoint"),
    _detector("checkpoint that runs a command", _IN_A_ZIP, "can't load it as a YOLO checkpoint"),
    _detector(
        "checkpoint that is let run code, without a checksum",
        _IN_A_ZIP,
        "detector.sha256: must be set",
        ULTRALYTICS_SAFE_LOAD="0",
    ),
    _smolvlm("SmolVLM with pickled weights", {"pytorch_model.bin": _PICKLE}, "no weights in safetensors"),
    _smolvlm("safetensors cut in half", {"model.safetensors": _GOOD[:-8]}, "damaged or truncated"),
    _smolvlm("safetensors of no bytes", {"model.safetensors": b""}, "damaged or truncated"),
    _smolvlm(
        "safetensors with a header of 9 exabytes",
        {"model.safetensors": struct.pack("<Q", 2**63) + _GOOD[8:]},
        "damaged or truncated",
    ),
    _smolvlm(
        "safetensors with tensors behind the end",
        {"model.safetensors": safetensors({"a": {**_TENSOR, "data_offsets": [0, 2**40]}})},
        "damaged or truncated",
    ),
    _smolvlm("pickle named .safetensors", {"model.safetensors": _PICKLE}, "damaged or truncated"),
    _smolvlm(
        "index that names files elsewhere",
        {"model.safetensors.index.json": b'{"weight_map": {"a": "../../missing.safetensors"}}'},
        "has no ../../missing.safetensors",
    ),
    _smolvlm(
        "index of another shape",
        {"model.safetensors": _GOOD, "model.safetensors.index.json": b"[" * 100_000},
        "has no readable model.safetensors.index.json",
    ),
    _smolvlm(
        "model configuration nested without end",
        {"model.safetensors": _GOOD, "config.json": b"[" * 100_000},
        "can't be read as JSON",
    ),
    _smolvlm(
        "model of another kind",
        {
            "model.safetensors": _GOOD,
            "config.json": b'{"model_type": "code", "auto_map": {"AutoModel": "x.Y"}}',
        },
        "not a SmolVLM",
    ),
)
