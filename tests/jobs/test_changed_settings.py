"""The settings that are named for a stage are exactly those that its fingerprint depends on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.run.changed_settings import SETTINGS_OF
from jobs.run.resolve import resolve
from jobs.settings import load_settings
from tests.support.job import Models

OTHER_VALUES: dict[str, Any] = {
    "detector.backend": "torch",
    "detector.precision": "float32",
    "detector.device": "cuda",
    "detector.image_size": 352,
    "detector.actors": 3,
    "input.uri": "elsewhere",
    "input.format": "zip",
    "input.key_pattern": "{camera}/*",
    "input.timezone": "Europe/Berlin",
    "input.key_column": "k",
    "input.camera_column": "k",
    "input.captured_at_column": "k",
    "roi.static": [{"mode": "include", "rectangle": [0, 0, 1, 1]}],
    "roi.dynamic.scope": "shard",
    "smolvlm.engine": "server",
    "smolvlm.batch_size": 7,
    "smolvlm.dtype": "bfloat16",
    "smolvlm.image_size_px": 128,
    "smolvlm.vision": "torch",
    "gemini.api_version": "v2",
    "gemini.mode": "batch",
    "gemini.attribute_weights": {"cap": 2},
    "gemini.on_daily_quota": "wait",
    "gemini.policy": "random",
    "gemini.face_attributes": ["glasses"],
    "gemini.thinking_level": "low",
    "gemini.thinking_budget": 100,
    "gemini.media_resolution": "low",
    "gemini.cameras.allow": ["till"],
    "gemini.cameras.deny": ["till"],
    "gemini.max_in_flight": 3,
    "gemini.max_persons": 3,
    "gemini.max_cost_usd": 3,
    "gemini.prices.input_usd": 1,
    "gemini.prices.output_usd": 1,
    "gemini.prices.batch_share": 0.4,
    "consensus.min_accuracy": 0.9,
    "metrics.textfile": "run.prom",
    "metrics.port": 9100,
    "output.person_json": "tar",
    "schema.attributes.backpack": {"type": "boolean", "description": "Carries a backpack"},
}
"""Another value for settings that have no obvious one."""

NEEDS = {
    "smolvlm.compile": "smolvlm.batch_size=8",
    "annotate.reuse_overlap": "annotate.reuse=10",
    "annotate.reuse_similarity": "annotate.reuse=10",
    "smolvlm.engine": "smolvlm.server.base_url=http://127.0.0.1:9/v1",
    "smolvlm.reasoning_max_tokens": "smolvlm.reasoning=true",
    "gemini.face_attributes": "gemini.blur_faces=true",
}
"""A setting without which another one has no effect."""

NOT_TRIED = (
    # Their other values need other files or a hub, or the stage is off with them.
    "detector.weights",
    "detector.sha256",
    "detector.cache_dir",
    "smolvlm.model",
    "smolvlm.revision",
    "smolvlm.prompt",
    "smolvlm.enabled",
    "smolvlm.server.base_url",
    "gemini.prompt",
    "gemini.enabled",
)


def leaves(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.5
    if isinstance(value, list):
        return value[:-1]
    return f"{value}x"


@pytest.mark.slow
def test_a_setting_is_named_for_a_stage_if_and_only_if_it_changes_the_fingerprint(
    models: Models, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GEMINI_API_KEY", "no-key")
    given = [option for option in models.options() if option != "--set"] + ["gemini.enabled=true"]

    def fingerprints(*more: str) -> dict[str, str]:
        return resolve(load_settings((), [*given, *more]).settings).fingerprints

    base = fingerprints()
    found = leaves(load_settings((), given).settings.as_dict()) | {"schema.attributes.backpack": None}
    tried = 0
    for setting, value in found.items():
        section = setting.partition(".")[0]
        if setting in NOT_TRIED or (section in ("schema", "output") and setting not in OTHER_VALUES):
            continue
        if section in ("ray", "storage"):
            continue
        tried += 1
        other = OTHER_VALUES[setting] if setting in OTHER_VALUES else another(value)
        needed = [NEEDS[setting]] if setting in NEEDS else []
        before = fingerprints(*needed) if needed else base
        for stage, fingerprint in fingerprints(*needed, f"{setting}={json.dumps(other)}").items():
            named = any(setting == own or setting.startswith(f"{own}.") for own in SETTINGS_OF[stage])
            assert named == (fingerprint != before[stage]), (setting, stage)
    assert tried > 50
