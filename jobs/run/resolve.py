"""What the settings come to before any work: models found and checked, fingerprints of the stages."""

from __future__ import annotations

from dataclasses import dataclass

from actors.attributes import AttributeSchema
from actors.detect.settings import ResolvedDetector, resolve_detector
from actors.fingerprint import fingerprint_of
from actors.gemini.api.client import read_api_key
from actors.gemini.quota.quota import key_id_of
from actors.gemini.settings import ResolvedGemini, resolve_gemini
from actors.smolvlm.settings import ResolvedSmolVLM, resolve_smolvlm
from jobs.run.demo_models import demo_models, notice_of
from jobs.run.run_record import DetectorModel, GeminiModel, Models, SmolVLMModel
from jobs.settings import Settings


@dataclass(frozen=True, slots=True)
class Resolved:
    """Schema, models, and stage to the hash of all that its results depend on.

    `smolvlm` and `gemini` are None where they aren't enabled.
    """

    schema: AttributeSchema
    detector: ResolvedDetector
    smolvlm: ResolvedSmolVLM | None
    gemini: ResolvedGemini | None
    fingerprints: dict[str, str]


def resolve(settings: Settings) -> Resolved:
    """Find and check everything that a run needs.

    Raises:
        ConfigError: Weights, model, prompt or key are missing or won't do.
    """
    schema = AttributeSchema(settings.attributes)
    detector = resolve_detector(settings.detector, settings.storage)
    smolvlm = resolve_smolvlm(settings.smolvlm, schema) if settings.smolvlm.enabled else None
    reading = settings.input.model_dump(mode="json", exclude={"uri", "format", "max_shard_bytes"})
    selecting = settings.roi.model_dump(mode="json")
    fingerprints = {
        "detect": fingerprint_of(
            [
                detector.fingerprint,
                reading,
                selecting,
                settings.crops.model_dump(),
                settings.run.max_failed_frames,
            ]
        ),
        "person_json": settings.output.person_json_fingerprint,
    }
    if smolvlm is not None:
        fingerprints["smolvlm"] = smolvlm.fingerprint
    gemini = None
    if settings.gemini.enabled:
        read_api_key()
        gemini = resolve_gemini(settings.gemini, schema)
        fingerprints["gemini"] = gemini.fingerprint
    return Resolved(schema, detector, smolvlm, gemini, fingerprints)


def models_of(resolved: Resolved, before: Models) -> Models:
    """What `run.json` says of the models.

    Args:
        resolved: Of this run.
        before: The same of the run before: an annotator that is left out now keeps its answers.
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
    demo_stages = [stage for stage in of_demo if stage != "smolvlm"]
    if smolvlm is not None and smolvlm.demo:
        demo_stages.append("smolvlm")
    return Models(
        demo=bool(demo_stages),
        notice=notice_of(demo_stages),
        detector=DetectorModel(
            demo="detector" in of_demo,
            weights=detector.weights,
            sha256=detector.weights_sha256,
            backend=detector.backend,
            precision=detector.precision,
        ),
        smolvlm=smolvlm,
        gemini=None if resolved.gemini is None else gemini_model(resolved.gemini),
    )


def gemini_model(resolved: ResolvedGemini) -> GeminiModel:
    """What `run.json` says of Gemini; the key only as its digest."""
    return GeminiModel(
        model=resolved.model,
        prompt_sha256=resolved.prompt_sha256,
        key_id=key_id_of(read_api_key().get_secret_value()),
    )
