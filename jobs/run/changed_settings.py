"""Which settings and models differ from those of the last run, by the stage that depends on them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from jobs.run.run_record import Models, RunRecord

_DETECTOR = (
    "weights",
    "backend",
    "precision",
    "device",
    "confidence",
    "iou",
    "max_detections",
    "image_size",
)
_READING = (
    "max_image_bytes",
    "max_image_pixels",
    "frames_per_shard",
    "sidecars",
    "key_pattern",
    "timezone",
    "image_column",
    "key_column",
    "camera_column",
    "captured_at_column",
)
_CROPS = ("padding", "max_side_px", "jpeg_quality", "max_frame_bytes")
_SMOLVLM = (
    "engine",
    "model",
    "revision",
    "prompt",
    "dtype",
    "gpus_per_actor",
    "reasoning",
    "reasoning_max_tokens",
    "image_size_px",
    "letterbox",
    "split_image",
)
_REUSE = ("annotate.reuse", "annotate.reuse_overlap", "annotate.reuse_similarity")
_GEMINI = ("prompt", "reasoning", "blur_faces", "face_attributes")

SETTINGS_OF: Mapping[str, tuple[str, ...]] = {
    "detect": (
        *(f"detector.{name}" for name in _DETECTOR),
        *(f"input.{name}" for name in _READING),
        "roi",
        *(f"crops.{name}" for name in _CROPS),
        "run.max_failed_frames",
    ),
    "smolvlm": (*(f"smolvlm.{name}" for name in _SMOLVLM), "schema", *_REUSE),
    # Rules only check Gemini's answers.
    "gemini": (*(f"gemini.{name}" for name in _GEMINI), "schema.attributes", *_REUSE),
    "person_json": ("output.person_json",),
}
"""The settings, or whole sections, that the fingerprint of a stage is computed from."""

_CONTENT_OF = {
    "detect": {"detector.weights": "detector.sha256", "detector.backend": "detector.backend"},
    "smolvlm": {
        "smolvlm.model": "smolvlm.version",
        "smolvlm.prompt": "smolvlm.prompt_sha256",
        "smolvlm.dtype": "smolvlm.dtype",
    },
    "gemini": {"gemini.prompt": "gemini.prompt_sha256"},
}
"""What `models` in `run.json` says of the content behind a setting, which may change without the setting."""

_LONGEST_VALUE = 60


@dataclass(frozen=True, slots=True)
class Change:
    """A setting with its value in the last run and now. A setting that isn't given has the value None."""

    setting: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.setting} {_short(self.old)} -> {_short(self.new)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[Change]:
    """Yield the settings that differ between two configurations, by name."""
    for key in sorted(old.keys() | new.keys()):
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from differences(one, other, f"{prefix}{key}.")
        elif one != other:
            yield Change(f"{prefix}{key}", one, other)


def changes_since(before: RunRecord, now: RunRecord) -> dict[str, list[Change]]:
    """Return what has changed for each stage whose fingerprint differs from that of the last run.

    The list is empty if the two runs differ in nothing that they recorded.
    """
    found = {}
    settings = list(differences(before.config, now.config))
    for stage, fingerprint in now.fingerprints.items():
        if before.fingerprints.get(stage, fingerprint) == fingerprint:
            continue
        changed = [change for change in settings if _concerns(stage, change.setting)]
        changed += _contents(stage, before.models, now.models, changed)
        if not changed and before.shopframe != now.shopframe:
            changed.append(Change("version of shopframe", before.shopframe, now.shopframe))
        found[stage] = changed
    return found


def _concerns(stage: str, setting: str) -> bool:
    return any(setting == own or setting.startswith(f"{own}.") for own in SETTINGS_OF.get(stage, ()))


def _contents(stage: str, before: Models, now: Models, changed: list[Change]) -> Iterator[Change]:
    """Yield the contents that have changed behind settings that have not."""
    settings = {change.setting for change in changed}
    for setting, path in _CONTENT_OF.get(stage, {}).items():
        # The text of the prompt contains the attributes.
        explained = {setting, "schema"} if setting.endswith(".prompt") else {setting}
        if any(name in explained or name.partition(".")[0] in explained for name in settings):
            continue
        old, new = _of(before, path), _of(now, path)
        if old is not None and old != new:
            what = path.rpartition(".")[2]
            yield Change(setting, f"{what} {str(old)[:19]}", f"{what} {str(new)[:19]}")


def _of(models: BaseModel, path: str) -> Any:
    value: Any = models
    for name in path.split("."):
        value = getattr(value, name, None)
    return value
