"""Resolve the settings before any work: find and check the models, and compute the stages' fingerprints."""

from __future__ import annotations

from dataclasses import dataclass

from actors.attributes import AttributeSchema
from actors.detect.settings import ResolvedDetector, resolve_detector
from actors.fingerprint import fingerprint_of, with_reuse
from actors.gemini.api.client import read_api_key
from actors.gemini.quota.quota import key_id_of
from actors.gemini.settings import ResolvedGemini, resolve_gemini
from actors.smolvlm.settings import ResolvedSmolVLM, resolve_smolvlm
from actors.smolvlm.tower_choice import TowerChoice
from jobs.run.demo_models import demo_models, notice_of
from jobs.run.detector_network import ChosenNetwork
from jobs.run.run_record import DetectorModel, GeminiModel, Models, RunRecord, SmolVLMModel
from jobs.settings import Settings


@dataclass(frozen=True, slots=True)
class Resolved:
    """The schema, the models, and for each stage the hash of everything that its results depend on.

    `smolvlm` and `gemini` are None if they aren't enabled.
    """

    schema: AttributeSchema
    detector: ResolvedDetector
    smolvlm: ResolvedSmolVLM | None
    gemini: ResolvedGemini | None
    fingerprints: dict[str, str]


def resolve(settings: Settings, before: RunRecord | None = None) -> Resolved:
    """Find and check everything that a run needs.

    Args:
        settings: The settings of this run.
        before: The last run of the output, from which answers of earlier versions are recognised.

    Raises:
        ConfigError: If weights, model, prompt or API key are missing or can't be used.
    """
    schema = AttributeSchema(settings.attributes)
    detector = resolve_detector(settings.detector, settings.storage)
    smolvlm = resolve_smolvlm(settings.smolvlm, schema) if settings.smolvlm.enabled else None
    selecting = settings.roi.model_dump(mode="json")
    fingerprints = {
        "detect": fingerprint_of(
            [
                detector.fingerprint,
                settings.input.fingerprint_content(),
                selecting,
                settings.crops.fingerprint_content(),
                settings.run.max_failed_frames,
            ]
        ),
        "person_json": settings.output.person_json_fingerprint,
    }
    if smolvlm is not None:
        fingerprints["smolvlm"] = with_reuse(smolvlm.fingerprint, settings.annotate.fingerprint())
    gemini = None
    if settings.gemini.enabled:
        read_api_key()
        earlier = () if before is None else before.earlier_requests
        gemini = resolve_gemini(settings.gemini, schema, earlier, settings.annotate)
        fingerprints["gemini"] = gemini.stage_fingerprint
    return Resolved(schema, detector, smolvlm, gemini, fingerprints)


def models_of(resolved: Resolved, before: Models) -> Models:
    """Return the models as recorded in `run.json`.

    Args:
        resolved: The models of this run.
        before: The recorded models of the last run. If SmolVLM is off now, its entry is kept, because its
            answers are kept too.
    """
    detector, vlm = resolved.detector, resolved.smolvlm
    of_demo = demo_models(detector, vlm)
    smolvlm = before.smolvlm
    if vlm is not None:
        smolvlm = SmolVLMModel(
            demo="smolvlm" in of_demo,
            model=vlm.model,
            version=vlm.model_version,
            dtype=vlm.dtype,
            prompt_sha256=vlm.prompt_sha256,
        )
        if before.smolvlm is not None and before.smolvlm.version == vlm.model_version:
            # They hold until this run asks.
            kept = before.smolvlm.model_dump(include={"dtype", "tower"}) if before.smolvlm.tower else {}
            smolvlm = smolvlm.model_copy(update={**kept, "vision": before.smolvlm.vision})
    demo_stages = [stage for stage in of_demo if stage != "smolvlm"]
    if smolvlm is not None and smolvlm.demo:
        demo_stages.append("smolvlm")
    return Models(
        demo=bool(demo_stages),
        notice=notice_of(demo_stages),
        detector=_with_network_of(
            before.detector,
            DetectorModel(
                demo="detector" in of_demo,
                weights=detector.weights,
                sha256=detector.weights_sha256,
                backend=detector.backend,
                precision=detector.precision,
            ),
        ),
        smolvlm=smolvlm,
        gemini=None if resolved.gemini is None else gemini_model(resolved.gemini),
    )


def _with_network_of(before: DetectorModel | None, now: DetectorModel) -> DetectorModel:
    """Return the entry of a detector with the network of the last run, which holds until this run detects."""
    if before is None or (before.sha256, before.backend) != (now.sha256, now.backend):
        return now
    precision = now.precision if before.network is None else before.precision
    return now.model_copy(update={"precision": precision, "network": before.network, "int8": before.int8})


def with_tower(models: Models, smolvlm: ResolvedSmolVLM | None, choice: TowerChoice | None) -> Models:
    """Return the recorded models with the vision tower that a run asks with."""
    if models.smolvlm is None or smolvlm is None:
        return models
    tower = {"dtype": smolvlm.dtype, "tower": smolvlm.tower_sha256, "vision": choice}
    return models.model_copy(update={"smolvlm": models.smolvlm.model_copy(update=tower)})


def with_network(models: Models, chosen: ChosenNetwork) -> Models:
    """Return the recorded models with the network that a run detects with."""
    if models.detector is None:
        return models
    network = {
        "precision": chosen.detector.precision,
        "network": chosen.detector.int8_sha256,
        "int8": chosen.choice,
    }
    return models.model_copy(update={"detector": models.detector.model_copy(update=network)})


def gemini_model(resolved: ResolvedGemini) -> GeminiModel:
    """Return Gemini's entry in `run.json`. It holds only a digest of the API key."""
    return GeminiModel(
        model=resolved.model,
        prompt_sha256=resolved.prompt_sha256,
        key_id=key_id_of(read_api_key().get_secret_value()),
        earlier=dict(resolved.earlier),
    )
