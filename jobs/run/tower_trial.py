"""Make SmolVLM's vision tower a network of OpenVINO, and find out whether it agrees with torch's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from actors.attributes import AttributeSchema
from actors.detect.crops import CropSettings, cut_person
from actors.detect.person_detector import PersonDetector
from actors.detect.sample_frames import sample_frames
from actors.detect.settings import DetectorSettings, FloatPrecision, ResolvedDetector, is_fast_in_bfloat16
from actors.errors import FrameError, TokenizationError, WeightsError
from actors.read.frame_decoder import decode_frame
from actors.read.settings import InputSettings
from actors.records import Annotation, Shard
from actors.smolvlm.settings import ResolvedSmolVLM, SmolVLMSettings
from actors.smolvlm.tower_choice import FEWEST_CROPS, MOST_CROPS, TowerChoice, equal_answers
from actors.storage.model_paths import network_sha256
from actors.storage.settings import StorageSettings

if TYPE_CHECKING:
    from torch import Tensor

    from actors.smolvlm.guided_decoding import Vision
    from actors.smolvlm.guided_engine import GuidedEngine

_CALIBRATION_CROPS = 32
_CROPS_PER_FRAME = 4

_TIMED_CROPS = 4
_ROUNDS = 2
"""Number of crops, and how often each is done to find out which network is the fastest."""


@dataclass(frozen=True, slots=True)
class TowerTrial:
    """What is needed to try a tower on crops of the input.

    Attributes:
        smolvlm: Settings of the annotator.
        resolved: Its model and prompt.
        schema: The attributes.
        detector: Settings of the detector that finds people in frames of the input.
        network: The detector's network.
        crops: How they are cut out.
        shards: Shards to take frames from.
        reading: How to read them.
        storage: How to reach them.
        insists: Whether the network is taken where it agrees, even if it isn't faster.
    """

    smolvlm: SmolVLMSettings
    resolved: ResolvedSmolVLM
    schema: AttributeSchema
    detector: DetectorSettings
    network: ResolvedDetector
    crops: CropSettings
    shards: tuple[Shard, ...]
    reading: InputSettings
    storage: StorageSettings
    insists: bool


@dataclass(frozen=True, slots=True)
class TriedTower:
    """How a trial came out, and the XML and weights of the network."""

    choice: TowerChoice
    files: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network that may become the tower: XML and weights, and the precision of what isn't quantised."""

    precision: Literal["int8", "bfloat16", "float32"]
    arithmetic: FloatPrecision
    files: tuple[bytes, bytes]


def try_tower(trial: TowerTrial) -> TriedTower:
    """Make the tower in each precision, and compare the fastest with torch's, until one agrees.

    Raises:
        StoreError: The frames can't be read now.
        WeightsError: The model can't be loaded or converted, or doesn't suit guided decoding, or too few
            people are found to compare.
    """
    sample = sample_frames(trial.shards, trial.reading, trial.storage)
    detector = PersonDetector(trial.detector, trial.network)
    compared = list(islice(_people(sample.compared, trial, detector), MOST_CROPS))
    if len(compared) < FEWEST_CROPS:
        raise WeightsError(
            f"smolvlm.vision: only {len(compared)} people were found in frames of the input (at least "
            f"{FEWEST_CROPS} are compared)"
        )
    calibration = list(islice(_people(sample.calibration, trial, detector), _CALIBRATION_CROPS))
    engines = load_engines(trial)
    candidates = make_candidates(engines[0][1], trial.resolved.image_size_px, calibration)
    return choose_candidate(trial, engines, candidates, compared)


def load_engines(trial: TowerTrial) -> list[tuple[FloatPrecision, GuidedEngine]]:
    """Load the model as it runs without OpenVINO, and in bfloat16 where that may be chosen.

    Raises:
        WeightsError: The model can't be loaded, or doesn't suit guided decoding.
    """
    from actors.smolvlm.guided_engine import GuidedEngine

    own: FloatPrecision = "bfloat16" if trial.resolved.dtype == "bfloat16" else "float32"
    precisions: list[FloatPrecision] = [own]
    if trial.smolvlm.dtype == "auto" and own == "float32" and is_fast_in_bfloat16():
        precisions.append("bfloat16")
    try:
        return [
            (dtype, GuidedEngine(trial.smolvlm, replace(trial.resolved, dtype=dtype), trial.schema))
            for dtype in precisions
        ]
    except TokenizationError as error:
        raise WeightsError(f"smolvlm.vision: the model doesn't suit guided decoding: {error}") from error


def make_candidates(engine: GuidedEngine, side_px: int, calibration: Sequence[bytes]) -> list[Candidate]:
    """Return the tower in every precision that this machine can make and runs well.

    Args:
        engine: The model.
        side_px: Side of a picture in pixels.
        calibration: Crops to quantise on.
    """
    from actors.smolvlm.vision_tower import export_tower, quantised_tower

    plain = export_tower(engine.model, side_px)
    in_float: list[FloatPrecision] = ["bfloat16", "float32"] if is_fast_in_bfloat16() else ["float32"]
    found = [Candidate(precision, precision, plain) for precision in in_float]
    if find_spec("nncf") is not None and calibration:
        pictures = [np.asarray(pixels[0]) for pixels in engine.pictures(calibration)]
        found.insert(0, Candidate("int8", in_float[0], quantised_tower(plain, pictures)))
    return found


def choose_candidate(
    trial: TowerTrial,
    engines: Sequence[tuple[FloatPrecision, GuidedEngine]],
    candidates: Sequence[Candidate],
    crops: Sequence[bytes],
) -> TriedTower:
    """Return the fastest network that agrees with torch, or the fastest one, which then isn't taken.

    Args:
        trial: The settings.
        engines: The model in torch, with which the networks are compared, and in other precisions.
        candidates: The networks.
        crops: Crops on which none of them was quantised.
    """
    import torch

    from actors.smolvlm.vision_tower import VisionTower

    torch_one = engines[0][1]
    threads = torch.get_num_threads()
    towers = [VisionTower(one.files, one.arithmetic, threads) for one in candidates]
    own = torch_one.vision
    with torch.inference_mode():
        vision_s, text_s = _seconds(torch_one, [own, *towers], [one for _, one in engines], crops)
    torch_s = vision_s[0] + text_s[0]
    pairs = [
        (vision_s[1 + tower] + text_s[text], tower, text)
        for tower in range(len(candidates))
        for text in range(len(engines))
    ]
    reference: _Answers | None = None
    fastest: TriedTower | None = None
    for seconds, tower, text in sorted(pairs):
        candidate, (precision, engine) = candidates[tower], engines[text]
        choice = TowerChoice(
            taken=False,
            network=network_sha256(candidate.files),
            precision=candidate.precision,
            arithmetic=candidate.arithmetic,
            text_precision=precision,
            crops=0,
            cosine=0,
            equal={},
            milliseconds=round(1000 * seconds, 2),
            torch_milliseconds=round(1000 * torch_s, 2),
            packages={name: version(name) for name in ("openvino", "torch")},
        )
        if trial.insists or not choice.is_slow():
            reference = reference or _answers(torch_one, own, crops)
            choice = _compared(choice, reference, _answers(engine, towers[tower], crops), trial.schema)
            objections = choice.disagreements() if trial.insists else choice.objections()
            choice = choice.model_copy(update={"taken": not objections})
        tried = TriedTower(choice, candidate.files)
        if choice.taken:
            return tried
        fastest = fastest or tried
    assert fastest is not None  # the tower in float32 can always be made
    return fastest


@dataclass(slots=True)
class _Watched:
    """Turns pictures into features as another does, and keeps the features."""

    vision: Vision
    features: list[Tensor] = field(default_factory=list)

    def __call__(self, pixels: Tensor) -> Tensor:
        found = self.vision(pixels)
        self.features += found
        return found


@dataclass(frozen=True, slots=True)
class _Answers:
    features: list[Tensor]
    annotations: list[Annotation]


def _answers(engine: GuidedEngine, vision: Vision, crops: Sequence[bytes]) -> _Answers:
    """Ask about crops, with features from a vision."""
    before = engine.vision
    watched = _Watched(vision)
    engine.vision = watched
    try:
        return _Answers(watched.features, engine.annotate(crops))
    finally:
        engine.vision = before


def _compared(
    choice: TowerChoice, reference: _Answers, other: _Answers, schema: AttributeSchema
) -> TowerChoice:
    from torch.nn.functional import cosine_similarity

    cosines = [
        float(cosine_similarity(one.float().flatten(), two.float().flatten(), dim=0))
        for one, two in zip(reference.features, other.features, strict=True)
    ]
    outcome: Mapping[str, object] = {
        "crops": len(cosines),
        "cosine": round(min(cosines), 6),
        "equal": equal_answers(reference.annotations, other.annotations, schema),
    }
    return choice.model_copy(update=outcome)


def _seconds(
    torch_one: GuidedEngine,
    visions: Sequence[Vision],
    engines: Sequence[GuidedEngine],
    crops: Sequence[bytes],
) -> tuple[list[float], list[float]]:
    """Return the seconds that each vision takes for a crop, and each engine for the rest of its answer.

    The rounds alternate between them, so that a busy moment of the machine doesn't affect only one.
    """
    few = crops[:_TIMED_CROPS]
    pictures = torch_one.pictures(few)
    # The text model takes as long on any features.
    features = torch_one.vision(pictures[0][None])

    def see(vision: Vision) -> None:
        for picture in pictures:
            vision(picture[None])

    def write(engine: GuidedEngine) -> None:
        own = engine.vision
        engine.vision = lambda pixels: features.expand(len(pixels), -1, -1)
        engine.annotate(few)
        engine.vision = own

    works: list[Callable[[], None]] = [
        *(lambda vision=vision: see(vision) for vision in visions),
        *(lambda engine=engine: write(engine) for engine in engines),
    ]
    best = [float("inf")] * len(works)
    for _ in range(_ROUNDS):
        for index, work in enumerate(works):
            started = time.perf_counter()
            work()
            best[index] = min(best[index], (time.perf_counter() - started) / len(few))
    return best[: len(visions)], best[len(visions) :]


def _people(frames: Sequence[bytes], trial: TowerTrial, detector: PersonDetector) -> Iterator[bytes]:
    """Yield crops of the people in frames, some of each frame."""
    for data in frames:
        try:
            image = decode_frame(data, trial.reading.max_image_pixels)
            height, width = image.shape[:2]
            for box in detector.detect([image])[0][:_CROPS_PER_FRAME]:
                share = np.clip(box[:4] / (width, height, width, height), 0, 1)
                yield cut_person(image, share, trial.crops)
        except FrameError:
            continue
