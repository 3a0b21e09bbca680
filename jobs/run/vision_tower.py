"""Choose what runs SmolVLM's vision tower: torch, or a network of OpenVINO that is made for the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TextIO

from actors.errors import ConfigError, StoreError, WeightsError
from actors.own_process import in_own_process
from actors.records import Shard
from actors.smolvlm.settings import ResolvedSmolVLM
from actors.smolvlm.tower_choice import TowerChoice
from actors.storage.model_paths import kept_network, tower_choice_path
from actors.storage.object_store import ObjectStore
from jobs.run.detector_network import FEWEST_FRAMES
from jobs.run.frame_estimate import estimated_frames
from jobs.run.kept_networks import keep_choice, read_choice
from jobs.run.resolve import Resolved
from jobs.run.run_log import log, warn
from jobs.settings import Settings


def choose_tower(
    settings: Settings,
    resolved: Resolved,
    output: ObjectStore,
    shards: Sequence[Shard],
    frames_kept: int,
    terminal: TextIO,
) -> tuple[ResolvedSmolVLM | None, TowerChoice | None]:
    """Return the annotator with the tower that a run uses, and how it was chosen if it was tried.

    All runs of an output use one tower, wherever they run. Answers don't become invalid by it, because they
    agree within the bounds of `TowerChoice`. Of two runs that try at once, the first decides.

    Args:
        settings: The settings.
        resolved: The models.
        output: The output.
        shards: The shards whose persons SmolVLM is asked about.
        frames_kept: Number of frames whose answers the output keeps. From 2,000 on, `auto` keeps their tower.
        terminal: Where the user reads.

    Raises:
        ConfigError: OpenVINO is insisted on, but can't run the model, or its answers differ from torch's.
    """
    vlm, wanted = resolved.smolvlm, settings.smolvlm.vision
    if vlm is None or not shards or wanted == "torch" or not settings.smolvlm.can_use_tower(vlm.engine):
        return vlm, None
    insists = wanted == "openvino"
    path = tower_choice_path(vlm.fingerprint[:16])
    known = read_choice(output, path, TowerChoice)
    if known is not None and (known.taken or not insists):
        if _is_there(output, known):
            return _with(vlm, known), known
        warn(f"{output.uri}: the network of {path} is missing or damaged, so it is made again", terminal)
    elif not insists and not _is_worth_it(shards, frames_kept):
        return vlm, None
    if find_spec("openvino") is None:
        if insists:
            raise ConfigError("smolvlm.vision: openvino isn't installed; install it, or use auto")
        return vlm, None
    return _try(settings, resolved, vlm, output, path, shards, terminal)


def _is_worth_it(shards: Sequence[Shard], frames_kept: int) -> bool:
    return frames_kept < FEWEST_FRAMES <= sum(map(estimated_frames, shards))


def _try(
    settings: Settings,
    resolved: Resolved,
    vlm: ResolvedSmolVLM,
    output: ObjectStore,
    path: str,
    shards: Sequence[Shard],
    terminal: TextIO,
) -> tuple[ResolvedSmolVLM, TowerChoice | None]:
    from actors.detect.sample_frames import shards_to_sample
    from jobs.run.tower_trial import TowerTrial, try_tower

    insists = settings.smolvlm.vision == "openvino"
    print("trying SmolVLM's vision tower in OpenVINO on people of the input", file=terminal, flush=True)
    trial = TowerTrial(
        settings.smolvlm,
        vlm,
        resolved.schema,
        settings.detector,
        resolved.detector,
        settings.crops,
        tuple(shards_to_sample(shards)),
        settings.input,
        settings.storage,
        insists,
    )
    try:
        complaint = "smolvlm.vision: the process that tries OpenVINO died; it needs some GB of memory"
        tried = in_own_process(try_tower, trial, complaint)
    except (WeightsError, StoreError) as error:
        if insists:
            raise
        # Without it the run only takes longer.
        warn(f"the vision tower could not be tried in OpenVINO: {error}", terminal)
        return vlm, None
    choice = tried.choice
    log.info("vision tower", extra=choice.model_dump())
    if insists and not choice.taken:
        raise ConfigError(
            f"smolvlm.vision: OpenVINO can't take the place of torch: {'; '.join(choice.disagreements())}; "
            "use auto or torch"
        )
    choice = keep_choice(
        output,
        path,
        choice,
        tried.files,
        lambda other: (other.taken or not insists) and _is_there(output, other),
    )
    print(f"vision tower: {choice.text()}", file=terminal)
    return _with(vlm, choice), choice


def _is_there(output: ObjectStore, choice: TowerChoice) -> bool:
    return not choice.taken or kept_network(output, choice.network) is not None


def _with(vlm: ResolvedSmolVLM, choice: TowerChoice) -> ResolvedSmolVLM:
    """Return the annotator with what was chosen. Its fingerprint stays, so no answer becomes invalid."""
    if not choice.taken:
        return vlm
    return replace(
        vlm,
        dtype=choice.text_precision,
        tower_sha256=choice.network,
        tower_arithmetic=choice.arithmetic,
    )
