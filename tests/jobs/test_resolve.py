"""Fingerprints: each setting changes exactly those of the stages whose results depend on it."""

from __future__ import annotations

import pytest

from jobs.run import run_record
from jobs.run.resolve import models_of, resolve
from jobs.settings import load_settings
from tests.support.job import Models


def fingerprints(models: Models, *overrides: str) -> dict[str, str]:
    given = [option for option in models.options() if option != "--set"]
    return resolve(load_settings((), [*given, *overrides]).settings).fingerprints


@pytest.fixture(scope="module")
def base(models: Models) -> dict[str, str]:
    return fingerprints(models)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("roi.max_persons=1", {"detect"}),
        ("roi.dynamic.ratio=0.1", {"detect"}),
        ("detector.confidence=0.5", {"detect"}),
        ("crops.padding=0.2", {"detect"}),
        ("input.max_image_pixels=1000", {"detect"}),
        ("output.person_json=tar", {"person_json"}),
        ("schema.attributes.hood=null", {"smolvlm"}),
        ("smolvlm.reasoning=true", {"smolvlm"}),
        ("smolvlm.batch_size=3", set()),
        ("detector.actors=2", set()),
        ("run.stall_fail_s=10000", set()),
        ("output.previews=1", set()),
        ("output.keep_crops=never", set()),
    ],
)
def test_a_setting_changes_the_fingerprints_of_what_depends_on_it(models, base, override, changed):
    after = fingerprints(models, override)
    assert {name for name in base if after[name] != base[name]} == changed


def test_a_model_whose_answers_stay_is_remembered_when_a_run_leaves_it_out(models):
    given = [option for option in models.options(smolvlm=False) if option != "--set"]
    resolved = resolve(load_settings((), given).settings)
    assert models_of(resolved, run_record.Models()).notice is None
    before = run_record.SmolVLMModel(
        demo=True, model="demo/models/smolvlm", version="v", dtype="float32", prompt_sha256="p"
    )
    said = models_of(resolved, run_record.Models(smolvlm=before))
    assert said.smolvlm == before
    assert said.demo
    assert said.notice.startswith("demo models (smolvlm)")
