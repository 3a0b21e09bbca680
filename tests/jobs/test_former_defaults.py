"""A default that changes does nothing again in outputs that were made with the former one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.attributes import AttributeSchema
from actors.gemini.settings import GeminiSettings, resolve_gemini
from jobs.run.former_defaults import complete, keep_former_defaults
from jobs.settings import Settings, load_settings
from tests.support import job, without_ray
from tests.support.in_process import run_in_process
from tests.support.job import Models

BOOLEANS = ("glasses", "cap", "hood", "headscarf", "mask", "occlusion", "facing_camera")
FORMER = [
    "crops.padding=0.05",
    "smolvlm.letterbox=false",
    "schema.attributes.age_group.ranges=null",
    "schema.rules=[]",
    *(f"schema.attributes.{name}.nullable=false" for name in BOOLEANS),
]


def recorded_by_the_first_version() -> dict[str, Any]:
    config = load_settings((), FORMER).settings.as_dict()
    del config["smolvlm"]["letterbox"]
    del config["schema"]["attributes"]["age_group"]["ranges"], config["schema"]["rules"]
    return config


def kept(*overrides: str, config: tuple[str, ...] = (), before: tuple[str, ...] | None = None) -> Settings:
    loaded = load_settings(config, overrides)
    return keep_former_defaults(loaded, complete(recorded_by_the_first_version()), before).settings


def test_the_former_defaults_ask_the_questions_of_the_first_version():
    schema = AttributeSchema(load_settings((), FORMER).settings.attributes)
    # These hashes were computed by version 0.1.
    assert schema.sha256 == "b921d773cdc13b677f32125cc36f27b6a084c2dd1e48103b7f6acda82d5059e2"
    fingerprints = [
        resolve_gemini(GeminiSettings(reasoning=reasoning), schema).fingerprint for reasoning in (False, True)
    ]
    assert fingerprints == [
        "08a3b23d36670c45c0631c15ec643a914117d425fcfa61b154daaaadfed5d461",
        "e771807167ee372e76adf621a137de69c4fcd264058a87c1be41b71098b3aa4e",
    ]


def test_an_output_of_the_first_version_keeps_its_defaults():
    settings = kept()
    assert settings == load_settings((), FORMER).settings
    assert settings != Settings()


def test_what_is_given_is_never_a_former_default():
    assert kept("crops.padding=0.1") == load_settings((), [*FORMER, "crops.padding=0.1"]).settings
    assert kept(config=("default.yaml",)) == Settings()


def test_an_attribute_that_the_last_run_did_not_have_is_asked_as_by_default():
    loaded = load_settings(())
    config = recorded_by_the_first_version()
    config["schema"]["attributes"]["mask"] = None
    attributes = keep_former_defaults(loaded, complete(config), None).settings.attributes.attributes
    assert {name: a.nullable for name, a in attributes.items() if name in ("mask", "cap")} == {
        "mask": True,
        "cap": False,
    }


def test_a_setting_that_the_last_run_was_given_is_not_kept_when_it_is_no_longer_given():
    assert kept(before=()) == Settings()
    settings = kept(before=("smolvlm.letterbox",))
    assert settings.smolvlm.letterbox is False
    assert settings.crops == Settings().crops


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_plain_rerun_does_nothing_again_until_the_new_defaults_are_asked_for(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    job.write_shards(tmp_path / "in", "a")
    given = [part for setting in FORMER for part in ("--set", setting)]
    without_ray.annotate(tmp_path / "in", tmp_path / "out", *models.options(), *given)
    run = json.loads((tmp_path / "out/run.json").read_bytes())
    del run["kept_defaults"]
    run["config"] = {
        **run["config"],
        "schema": recorded_by_the_first_version()["schema"],
        "smolvlm": {k: v for k, v in run["config"]["smolvlm"].items() if k != "letterbox"},
    }
    (tmp_path / "out/run.json").write_text(json.dumps(run))
    records = job.records(tmp_path / "out")

    def rerun(*options: str) -> str:
        arguments = ["--input", tmp_path / "in", "--output", tmp_path / "out", *models.options(), *options]
        assert run_in_process(monkeypatch, "annotate", *arguments) == 0
        return capfd.readouterr().err

    for _ in range(2):
        said = rerun()
        assert (
            "defaults that have changed since this output was begun stay as they were: crops.padding" in said
        )
        assert job.records(tmp_path / "out") == records
    shutil.copytree(tmp_path / "out", tmp_path / "again")
    said = without_ray.annotate(
        tmp_path / "in", tmp_path / "again", "--config", "default.yaml", "--dry-run", *models.options()
    ).stdout
    assert "crops.padding 0.05 -> 0.1" in said
