"""Choose the network that detects: the one that the output has, or one that is quantised for it now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from actors.detect.int8_choice import Int8Choice
from actors.detect.settings import ResolvedDetector
from actors.errors import ConfigError, StoreError, WeightsError
from actors.fingerprint import fingerprint_of
from actors.records import Shard
from actors.storage.model_paths import int8_choice_path, kept_network
from actors.storage.object_store import ObjectStore
from jobs.run.frame_estimate import estimated_frames
from jobs.run.kept_networks import keep_choice, read_choice
from jobs.run.run_log import log, warn
from jobs.settings import Settings

FEWEST_FRAMES = 2000
"""Number of frames below which `auto` doesn't try int8: a trial takes as long as it would save."""


@dataclass(frozen=True, slots=True)
class ChosenNetwork:
    """The network that detects, and what was compared if int8 was tried for this output."""

    detector: ResolvedDetector
    choice: Int8Choice | None = None


def choose_network(
    settings: Settings,
    detector: ResolvedDetector,
    output: ObjectStore,
    shards: Sequence[Shard],
    frames_done: int,
    terminal: TextIO,
) -> ChosenNetwork:
    """Return the network that a run detects with.

    All runs of an output use one network, wherever they run. If int8 is wanted and wasn't tried yet, it is
    made and compared now, and the outcome is written to `models/`. Of two runs that do so at once, the
    first decides.

    Args:
        settings: The settings.
        detector: The network as exported.
        output: The output.
        shards: The shards to detect.
        frames_done: Number of frames that the output already has. From 2,000 on, `auto` keeps their
            precision.
        terminal: Where the user reads.

    Raises:
        ConfigError: int8 is insisted on, but can't be made, or finds other persons than float32.
    """
    wanted = settings.detector.precision
    if wanted not in ("auto", "int8") or detector.backend != "openvino":
        if wanted == "int8":
            raise ConfigError("detector.precision: int8 needs openvino, which isn't installed")
        return ChosenNetwork(detector)
    path = int8_choice_path(int8_key(detector, settings.detector.image_size))
    known = read_choice(output, path, Int8Choice)
    if known is not None and (known.taken or wanted == "auto"):
        kept = _as_chosen(detector, output, known)
        if kept is not None:
            return kept
        warn(f"{output.uri}: the network of {path} is missing or damaged, so it is made again", terminal)
    if wanted == "auto" and known is None and not _is_worth_it(shards, frames_done):
        return ChosenNetwork(detector)
    return _try(settings, detector, output, path, shards, terminal)


def int8_key(detector: ResolvedDetector, image_size: int) -> str:
    """Return the digest of what a quantised network depends on besides the frames."""
    return fingerprint_of([detector.weights_sha256, image_size])[:16]


def _is_worth_it(shards: Sequence[Shard], frames_done: int) -> bool:
    from actors.detect.quantization import can_quantise

    enough = sum(map(estimated_frames, shards)) >= FEWEST_FRAMES
    return enough and frames_done < FEWEST_FRAMES and can_quantise()


def _as_chosen(detector: ResolvedDetector, output: ObjectStore, choice: Int8Choice) -> ChosenNetwork | None:
    """Return the network of a choice, or None if the output no longer has it."""
    if not choice.taken:
        return ChosenNetwork(detector, choice)
    from actors.detect.quantization import with_int8

    files = kept_network(output, choice.network)
    return None if files is None else ChosenNetwork(with_int8(detector, files), choice)


def _try(
    settings: Settings,
    detector: ResolvedDetector,
    output: ObjectStore,
    path: str,
    shards: Sequence[Shard],
    terminal: TextIO,
) -> ChosenNetwork:
    from actors.detect.quantization import Trial, try_int8_apart, with_int8
    from actors.detect.sample_frames import shards_to_sample

    insists = settings.detector.precision == "int8"
    print("trying the detector in int8 on frames of the input", file=terminal, flush=True)
    trial = Trial(
        settings.detector,
        detector,
        tuple(shards_to_sample(shards)),
        settings.input,
        settings.storage,
        insists,
        0 if insists else FEWEST_FRAMES,
        sum(estimated_frames(shard) for shard in shards if shard.format == "images"),
        sum(shard.size_bytes for shard in shards if shard.format != "images"),
    )
    try:
        tried = try_int8_apart(trial)
    except (WeightsError, StoreError) as error:
        if insists:
            raise
        # Without it the run only takes longer.
        warn(f"int8 could not be tried: {error}", terminal)
        return ChosenNetwork(detector)
    if tried is None:
        return ChosenNetwork(detector)
    choice = tried.choice
    log.info("int8", extra=choice.model_dump())
    if insists and not choice.taken:
        objections = "; ".join(choice.agreement.objections())
        raise ConfigError(
            f"detector.precision: int8 can't take the place of float32: {objections} ({choice.comparison()})"
            "; use auto, which takes another precision"
        )
    held = keep_choice(
        output,
        path,
        choice,
        tried.files,
        lambda other: (other.taken or not insists) and _as_chosen(detector, output, other) is not None,
    )
    if held is not choice and (kept := _as_chosen(detector, output, held)) is not None:
        return kept
    print(f"detector: {choice.text()}", file=terminal)
    return ChosenNetwork(with_int8(detector, tried.files) if choice.taken else detector, choice)
