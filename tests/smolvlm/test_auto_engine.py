"""The engine auto decodes guided where model and tokenizer allow it, and generates elsewhere."""

from __future__ import annotations

import json
import logging
import shutil

import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.errors import WeightsError
from actors.fingerprint import fingerprint_of
from actors.smolvlm.engine import load_engine
from actors.smolvlm.generate_engine import GenerateEngine
from actors.smolvlm.guided_engine import GuidedEngine
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from tests.conftest import REPO_ROOT
from tests.support.gemini_asking import jpeg
from tests.support.tiny_smolvlm import add_prefix_space, make_tiny_smolvlm
from tests.support.tiny_vlms import make_vlm

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SCHEMA = AttributeSchema(SchemaSettings())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_smolvlm(tmp_path_factory.mktemp("model") / "model")


def settings_of(folder, **changes):
    return SmolVLMSettings.model_validate({"model": str(folder), **changes})


def load(folder, **changes):
    settings = settings_of(folder, **changes)
    return load_engine(settings, resolve_smolvlm(settings, SCHEMA), SCHEMA, threads=1)


def with_first_token(folder):
    """Make the processor put a token before the prompt."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    name = "<|im_start|>"
    (number,) = (token["id"] for token in content["added_tokens"] if token["content"] == name)
    first, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }
    path.write_text(json.dumps(content))


@pytest.fixture(params=[add_prefix_space, with_first_token])
def unsuitable(request, folder, tmp_path):
    """A SmolVLM whose tokenizer splits texts otherwise than guided decoding assumes."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    request.param(copy)
    return copy


def test_a_smolvlm_is_decoded_guided(folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert isinstance(load(folder), GuidedEngine)
        # Its tokenizer was trained on pieces of answers, which is harder.
        assert isinstance(load(REPO_ROOT / "demo/models/smolvlm"), GuidedEngine)
    assert "smolvlm.engine" not in caplog.text


def test_a_tokenizer_that_does_not_suit_makes_auto_generate_with_a_warning(unsuitable, caplog):
    with caplog.at_level(logging.WARNING):
        engine = load(unsuitable)
    assert isinstance(engine, GenerateEngine)
    assert f"the tokenizer of {unsuitable} doesn't suit guided decoding: " in caplog.text
    assert "generate is used" in caplog.text
    assert [answer.status for answer in engine.annotate([jpeg(1, 30, 60)])] == ["ok"]
    with pytest.raises(WeightsError, match=r"smolvlm\.engine: the tokenizer of .*; use auto or generate"):
        load(unsuitable, engine="guided")


def test_other_models_are_generated_with(tmp_path):
    other = make_vlm("internvl", tmp_path / "model")
    assert isinstance(load(other), GenerateEngine)
    assert (
        resolve_smolvlm(settings_of(other), SCHEMA).fingerprint
        == resolve_smolvlm(settings_of(other, engine="generate"), SCHEMA).fingerprint
    )
    with pytest.raises(WeightsError, match=r"is a 'internvl', not a SmolVLM; use smolvlm\.engine auto"):
        load(other, engine="guided")


def test_answers_of_versions_without_engines_stay_valid(folder):
    resolved = resolve_smolvlm(settings_of(folder), SCHEMA)
    before = {
        "decoder": 1,
        "model": resolved.model_version,
        "prompt": resolved.prompt_sha256,
        "schema": SCHEMA.sha256,
        "dtype": "float32",
        "reasoning": 0,
        "image_size_px": 64,
        "split_image": False,
        "letterbox": True,
        "rules": [rule.text for rule in SCHEMA.rules],
    }
    assert resolved.fingerprint == fingerprint_of(before)
    guided = resolve_smolvlm(settings_of(folder, engine="guided"), SCHEMA)
    assert guided.fingerprint == resolved.fingerprint
