"""The `detector` section of the settings, and its resolution to one checked and exported network."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from actors.actor_bounds import AUTO, ActorBounds
from actors.detect.weights import Backend, check_sha256, export_model, may_run_code, read_weights
from actors.errors import WeightsError
from actors.fingerprint import fingerprint_of
from actors.settings_section import Section
from actors.storage.settings import StorageSettings

FloatPrecision = Literal["float32", "bfloat16"]
Precision = Literal["float32", "bfloat16", "int8"]


class DetectorSettings(Section):
    """Which network finds the people, and how it runs."""

    weights: str = Field(
        "yolov8n.pt",
        min_length=1,
        description="YOLO checkpoint: a path, a bucket URI, or a name that ultralytics downloads.",
    )
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-fA-F]{64}$",
        description="SHA-256 that the checkpoint must have. null accepts any checkpoint, unless the "
        "environment lets it run code (ULTRALYTICS_SAFE_LOAD=0).",
    )
    backend: Literal["auto", "openvino", "onnx", "torch"] = Field(
        "auto",
        description="Library that runs the network. `auto` picks OpenVINO if it is installed, else ONNX "
        "Runtime, else torch.",
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="Arithmetic precision in OpenVINO. `auto` picks bfloat16 where the CPU is faster in it, "
        "else float32. From about 2,000 frames on it also tries int8: it quantises the network on frames of "
        "the input, and uses it if it finds the same persons in other frames and is faster. `int8` insists "
        "on that, and fails where it finds others. float32 gives the same boxes on every CPU.",
    )
    confidence: float = Field(0.25, ge=0, le=1, description="Minimum score of a detection.")
    iou: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Overlap (intersection over union) from which two boxes count as one person.",
    )
    max_detections: int = Field(
        300, ge=1, description="Maximum number of people per frame; the highest scores are kept."
    )
    image_size: int = Field(
        640, ge=32, le=4096, multiple_of=32, description="Longer side of the network's input, in pixels."
    )
    actors: ActorBounds = Field(
        AUTO,
        description="Number of detector processes: a number, or `min` and `max`, between which a cluster's "
        "pool follows the work. `auto` is one on every core that is up or comes up.",
    )
    device: str = Field(
        "cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="Device that runs the network: `cpu` or `cuda`. `cuda` uses the torch backend.",
    )
    node_resource: str | None = Field(
        None,
        min_length=1,
        description="Custom resource of Ray that a node of a cluster must have to run detectors. null lets "
        "them run on any node.",
    )
    threads: int = Field(
        1, ge=1, le=64, description="Number of threads per detector process. Each thread takes one core."
    )
    cache_dir: Path = Field(
        Path("~/.cache/shopframe"),
        description="Folder for downloaded and exported networks, on the machine that starts the run.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.device != "cpu" and self.backend not in ("auto", "torch"):
            raise ValueError(f"backend {self.backend} runs on the CPU only: use device cpu, or backend torch")
        only_openvino = self.precision in ("bfloat16", "int8")
        if only_openvino and (self.backend in ("onnx", "torch") or self.device != "cpu"):
            raise ValueError(f"precision {self.precision} needs backend openvino")
        return self


@dataclass(frozen=True, slots=True)
class ResolvedDetector:
    """The checked network that the settings resolve to, as every detector process loads it.

    The network's bytes (13 MB for YOLOv8n) are pickled with it. A worker therefore needs no access to the
    checkpoint's path or the hub and no cache of its own, and all workers run the same export.

    Attributes:
        weights: The setting `detector.weights`.
        weights_sha256: SHA-256 of the checkpoint, hexadecimal.
        backend: The library that runs the network.
        float_precision: Precision of the arithmetic, in int8 that of the layers that aren't quantised.
        exporter: Package and version that read the checkpoint.
        person: Index of the class "person".
        stride: Input sides are multiples of this many pixels.
        fingerprint: SHA-256 of all settings that change boxes. The precision enters as it was set: "auto"
            accepts each of them, so continuing on another kind of machine doesn't detect anything again.
        files: The network in the backend's format.
        int8_sha256: Digest of the network if it is quantised to int8, else None.
    """

    weights: str
    weights_sha256: str
    backend: Backend
    float_precision: FloatPrecision
    exporter: str
    person: int
    stride: int
    fingerprint: str
    files: tuple[bytes, ...] = field(repr=False)
    int8_sha256: str | None = None

    @property
    def precision(self) -> Precision:
        """Precision of the network."""
        return self.float_precision if self.int8_sha256 is None else "int8"


def resolve_detector(settings: DetectorSettings, storage: StorageSettings) -> ResolvedDetector:
    """Find, check and export the weights before the run starts.

    Raises:
        WeightsError: The weights are missing or unreachable, don't match the checksum or aren't a YOLO
            detector with a person class; or the backend isn't installed. The message names the remedy.
    """
    backend = _backend(settings)
    cache_dir = settings.cache_dir.expanduser()
    content = read_weights(settings.weights, cache_dir, storage)
    sha256 = check_sha256(settings.weights, content, settings.sha256)
    if settings.sha256 is None and may_run_code():
        raise WeightsError(
            "detector.sha256: must be set where ULTRALYTICS_SAFE_LOAD in the environment lets checkpoints "
            f"run their own code; that of {settings.weights} is {sha256}, if it is the one that you trust"
        )
    model = export_model(settings.weights, content, backend, cache_dir)
    person = next((index for index, name in model.names.items() if name.lower() == "person"), None)
    if person is None:
        known = ", ".join(list(model.names.values())[:8])
        raise WeightsError(
            f"detector.weights: {settings.weights} has no class named person (its first classes are {known})"
        )
    asked = {
        "weights": sha256,
        "backend": backend,
        "precision": settings.precision if backend == "openvino" else "float32",
        "device": settings.device.partition(":")[0],
        "confidence": settings.confidence,
        "iou": settings.iou,
        "max_detections": settings.max_detections,
        "image_size": settings.image_size,
    }
    return ResolvedDetector(
        weights=settings.weights,
        weights_sha256=sha256,
        backend=backend,
        float_precision=_float_precision(settings, backend),
        exporter=model.exporter,
        person=person,
        stride=model.stride,
        fingerprint=fingerprint_of(asked),
        files=model.files,
    )


def _backend(settings: DetectorSettings) -> Backend:
    modules: dict[Backend, str] = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch"}
    if settings.backend != "auto":
        if find_spec(modules[settings.backend]) is None:
            raise WeightsError(
                f"detector.backend: {settings.backend} isn't installed; install {modules[settings.backend]} "
                "or use backend auto"
            )
        return settings.backend
    if settings.device != "cpu":
        return "torch"
    return next((name for name, module in modules.items() if find_spec(module) is not None), "torch")


def _float_precision(settings: DetectorSettings, backend: Backend) -> FloatPrecision:
    if backend != "openvino":
        return "float32"
    if settings.precision in ("float32", "bfloat16"):
        return settings.precision
    return "bfloat16" if is_fast_in_bfloat16() else "float32"


def is_fast_in_bfloat16() -> bool:
    """Return whether this CPU has AMX, or AVX512-BF16 on an AMD core.

    YOLOv8n at 384x640 on one thread takes 31 ms in bfloat16 and 55 ms in float32 on an EPYC with AVX512-BF16,
    but 69 ms and 42 ms on a Xeon with AMX hidden by the hypervisor. OpenVINO by default chooses bfloat16 on
    both.
    """
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").split())
    except OSError:
        return False
    return "amx_bf16" in words or {"avx512_bf16", "AuthenticAMD"} <= words
