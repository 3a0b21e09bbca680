"""Quantise a detection network to int8, and find out whether it can take the place of the original.

nncf imports torch, which takes seconds and 600 MB, so all of it happens in a process of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from actors.detect.agreement import compare_boxes
from actors.detect.backends import letterbox_of, planes_of
from actors.detect.int8_choice import Int8Choice
from actors.detect.person_detector import PersonDetector
from actors.detect.sample_frames import sample_frames
from actors.detect.settings import DetectorSettings, Precision, ResolvedDetector
from actors.errors import FrameError, WeightsError
from actors.own_process import in_own_process
from actors.read.frame_decoder import decode_frame
from actors.read.settings import InputSettings
from actors.records import Shard
from actors.storage.model_paths import network_sha256
from actors.storage.settings import StorageSettings

_HEAD_ARITHMETIC = r".*__module\.model\.{head}/.*/(Add|Sub|Mul|Div)[^/]*"
_HEAD_DISTRIBUTION = r".*__module\.model\.{head}\.dfl.*"


@dataclass(frozen=True, slots=True)
class Trial:
    """What is needed to try int8 on frames of the input.

    Attributes:
        detector: The detector's settings.
        resolved: The original network.
        shards: Shards to take frames from.
        reading: How to read them.
        storage: How to reach them.
        insists: Whether the network is taken where it agrees, even if it isn't faster.
        fewest_frames: Number of frames to detect below which a trial isn't worth its time.
        images: Number of loose images to detect.
        shard_bytes: Size of all other shards to detect.
    """

    detector: DetectorSettings
    resolved: ResolvedDetector
    shards: tuple[Shard, ...]
    reading: InputSettings
    storage: StorageSettings
    insists: bool
    fewest_frames: int = 0
    images: int = 0
    shard_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TriedNetwork:
    """How a trial came out, and the XML and weights of the quantised network."""

    choice: Int8Choice
    files: tuple[bytes, bytes]


def can_quantise() -> bool:
    """Return whether nncf is installed."""
    return find_spec("nncf") is not None


def with_int8(resolved: ResolvedDetector, files: Sequence[bytes]) -> ResolvedDetector:
    """Return a detector with a quantised network. What isn't quantised in it runs in the former precision."""
    return replace(resolved, files=tuple(files), int8_sha256=network_sha256(files))


def try_int8_apart(trial: Trial) -> TriedNetwork | None:
    """Do what `try_int8` does, in a process of its own.

    Raises:
        StoreError: The frames can't be read now.
        WeightsError: The network can't be quantised.
    """
    complaint = "detector.precision: the process that tries int8 died; it needs about 2 GB of memory"
    return in_own_process(try_int8, trial, complaint)


def try_int8(trial: Trial) -> TriedNetwork | None:
    """Quantise a network on frames of the input, and compare it with the original on others.

    Returns:
        The network and how it compares, or None if there are too few frames for a trial.

    Raises:
        StoreError: The frames can't be read now.
        WeightsError: The network can't be quantised, or no frame can be decoded.
    """
    sample = sample_frames(trial.shards, trial.reading, trial.storage)
    if trial.images + trial.shard_bytes / max(1.0, sample.frame_bytes) < trial.fewest_frames:
        return None
    letterboxed = [_letterboxed(image, trial) for image in _decoded(sample.calibration, trial)]
    if not letterboxed:
        raise WeightsError("detector.precision: there is no frame that the network can be quantised on")
    files = quantise(trial.resolved.files, letterboxed)
    choice = compare(trial, files, list(_decoded(sample.compared, trial)), len(letterboxed))
    return TriedNetwork(choice, files)


def _decoded(frames: Sequence[bytes], trial: Trial) -> Iterator[np.ndarray]:
    for data in frames:
        try:
            yield decode_frame(data, trial.reading.max_image_pixels)
        except FrameError:
            continue


def _letterboxed(image: np.ndarray, trial: Trial) -> np.ndarray:
    stride = trial.resolved.stride
    size = -(-trial.detector.image_size // stride) * stride
    return letterbox_of(*image.shape[:2], size, stride).apply(image)


def quantise(files: Sequence[bytes], images: Sequence[np.ndarray]) -> tuple[bytes, bytes]:
    """Return a network in int8, as XML and weights.

    The arithmetic that turns the outputs of the head into boxes and scores stays as it is. In int8 it would
    cost YOLOv8n a tenth of its AP50-95.

    Args:
        files: XML and weights of the original network, as ultralytics exports it to OpenVINO.
        images: Letterboxed frames to measure the ranges of values on, (height, width, 3) uint8 BGR.

    Raises:
        WeightsError: nncf isn't installed, or the network isn't built of numbered modules.
    """
    if not can_quantise():
        raise WeightsError("detector.precision: int8 needs the package nncf; install it, or use auto")
    import nncf
    import openvino as ov

    network = ov.Core().read_model(files[0], files[1])
    names = [operation.get_friendly_name() for operation in network.get_ordered_ops()]
    modules = [int(found[1]) for name in names if (found := re.match(r"__module\.model\.(\d+)\b", name))]
    if not modules:
        raise WeightsError("detector.precision: int8 is for networks that ultralytics exported")
    head = max(modules)
    quantised = nncf.quantize(
        network,
        nncf.Dataset([planes_of(image) for image in images]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(
            patterns=[pattern.format(head=head) for pattern in (_HEAD_ARITHMETIC, _HEAD_DISTRIBUTION)],
            types=["Sigmoid"],
            validate=False,
        ),
    )
    with TemporaryDirectory() as folder:
        xml = Path(folder, "network.xml")
        ov.save_model(quantised, xml, compress_to_fp16=False)
        return xml.read_bytes(), xml.with_suffix(".bin").read_bytes()


def compare(
    trial: Trial, files: Sequence[bytes], images: Sequence[np.ndarray], calibration_frames: int
) -> Int8Choice:
    """Compare a quantised network with the original in float32, and with the speed of what it would replace.

    Args:
        trial: The settings and the original network.
        files: XML and weights of the quantised network.
        images: Decoded frames that the network was not quantised on.
        calibration_frames: Number of frames that it was quantised on.
    """
    resolved = trial.resolved
    # The persons just below the minimum score are needed, too (see `Agreement`).
    settings = trial.detector.model_copy(update={"confidence": trial.detector.confidence / 2})
    detectors: dict[Precision, PersonDetector] = {
        "int8": PersonDetector(settings, with_int8(resolved, files)),
        "float32": PersonDetector(settings, replace(resolved, float_precision="float32")),
    }
    if resolved.float_precision not in detectors:
        detectors[resolved.float_precision] = PersonDetector(settings, resolved)
    boxes: dict[Precision, list[np.ndarray]] = {name: [] for name in detectors}
    seconds: dict[Precision, list[float]] = {name: [] for name in detectors}
    for image in images:
        for name, detector in detectors.items():
            started = time.perf_counter()
            boxes[name] += detector.detect([image])
            seconds[name].append(time.perf_counter() - started)
    agreement = compare_boxes(boxes["float32"], boxes["int8"], trial.detector.confidence)
    times = {name: round(1000 * median(found), 2) if found else 0.0 for name, found in seconds.items()}
    choice = Int8Choice(
        taken=False,
        network=network_sha256(files),
        calibration_frames=calibration_frames,
        agreement=agreement,
        milliseconds=times["int8"],
        instead=resolved.float_precision,
        instead_milliseconds=times[resolved.float_precision],
        packages={name: version(name) for name in ("nncf", "openvino")},
    )
    objections = agreement.objections() if trial.insists else choice.objections()
    return choice.model_copy(update={"taken": not objections})
