"""Models of other architectures answer by the schema, each crop by itself, with confidences."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from actors.attribute_settings import SchemaSettings
from actors.attributes import REASONING_MAX_CHARS, AttributeSchema
from actors.errors import ConfigError, WeightsError
from actors.smolvlm.generate_engine import GenerateEngine
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from tests.support.tiny_smolvlm import make_tiny_smolvlm
from tests.support.tiny_vlms import ARCHITECTURES, make_vlm

pytestmark = [
    pytest.mark.usefixtures("one_torch_thread"),
    # PaliGemma's processor reads pictures in a way that numpy discourages.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SCHEMA = AttributeSchema(SchemaSettings())
SMALL = AttributeSchema(
    SchemaSettings.model_validate(
        {
            "attributes": dict.fromkeys(SchemaSettings().attributes)
            | {
                "gender": {"type": "category", "values": ["male", "female", "unknown"]},
                "age": {"type": "integer", "min": 0, "max": 120, "nullable": True},
                "cap": {"type": "boolean", "nullable": True, "nested": True},
                "coat": {"type": "category", "values": ["grün", "grau"], "nested": True},
            },
            "rules": [],
        }
    )
)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    return make_vlm(request.param, tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return make_vlm("qwen2_5_vl", tmp_path_factory.mktemp("qwen") / "model")


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory):
    return make_tiny_smolvlm(tmp_path_factory.mktemp("smolvlm") / "model")


def settings_of(folder, **changes):
    return SmolVLMSettings.model_validate({"model": str(folder), "engine": "generate", **changes})


def engine_of(folder, schema=SMALL, **changes):
    settings = settings_of(folder, **changes)
    return GenerateEngine(settings, resolve_smolvlm(settings, schema), schema)


def make_crops(count, seed=0):
    rng = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        sink = io.BytesIO()
        size = (60 + 20 * index, 40, 3)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(sink, "JPEG")
        crops.append(sink.getvalue())
    return crops


CROPS = make_crops(5)


def test_every_architecture_answers_by_the_schema_whatever_the_batch(folder):
    seen = []
    engine = engine_of(folder, batch_size=3)
    found = engine.annotate(CROPS, lambda start, answers: seen.append((start, len(answers))))
    assert [answer.status for answer in found] == ["ok"] * 5
    assert seen == [(0, 3), (3, 2)]
    for answer in found:
        assert SMALL.parse(SMALL.nest(answer.values)) == answer.values
        assert answer.confidence.keys() == set(SMALL.names)
        assert all(0 < value <= 1 for value in answer.confidence.values())
    alone = [engine_of(folder, batch_size=1).annotate([crop])[0] for crop in CROPS[1:3]]
    for one, other in zip(alone, found[1:3], strict=True):
        assert one.values == other.values
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_answers_differ_by_the_picture(qwen):
    assert len({json.dumps(a.values) for a in engine_of(qwen).annotate(CROPS)}) > 1


def test_the_default_schema_with_an_explanation_that_is_cut(qwen):
    engine = engine_of(qwen, SCHEMA, reasoning=True, reasoning_max_tokens=5)
    found = engine.annotate(CROPS[:2])
    longest = max(len(text) for text in engine._grammar.bytes_of)
    assert [answer.status for answer in found] == ["ok"] * 2
    for answer in found:
        assert answer.values.keys() == set(SCHEMA.names)
        assert answer.confidence.keys() == set(SCHEMA.names)
        assert 0 < len(answer.reasoning) <= 6 * longest
        # A token that stands for a picture would be taken for one.
        assert "<|" not in answer.reasoning


def test_an_explanation_that_is_not_cut_ends_by_itself(qwen):
    (found,) = engine_of(qwen, reasoning=True, reasoning_max_tokens=256).annotate(CROPS[:1])
    assert found.status == "ok"
    assert 0 < len(found.reasoning) <= REASONING_MAX_CHARS
    assert "<|" not in found.reasoning


def test_probabilities_are_those_of_the_model_among_the_tokens_that_the_grammar_allows(qwen):
    engine = engine_of(qwen)
    generate, calls = engine._model.generate, []

    def remember(**inputs):
        calls.append((inputs, generate(**inputs)))
        return calls[-1][1]

    engine._model.generate = remember
    engine.annotate(CROPS[:1])
    ((inputs, ids),) = calls
    logits = inputs["logits_processor"][0]
    start = inputs["input_ids"].shape[1]
    (written,) = logits.written(ids[:, start:])
    pictures = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
    # All logits in one pass over the whole answer, instead of one by one.
    kinds = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, ids.shape[1] - start))
    with torch.inference_mode():
        plain = engine._model(input_ids=ids, mm_token_type_ids=kinds, **pictures).logits[0, start - 1 :]
    compared = 0
    for token, row, at in zip(written, plain, range(start, ids.shape[1]), strict=False):
        assert token.text == engine._grammar.bytes_of[ids[0, at]]
        if len(token.alternatives) < 20:
            allowed = [engine._grammar.bytes_of.index(text) for text, _ in token.alternatives]
            expected = torch.log_softmax(row[allowed], dim=0).tolist()
            assert [value for _, value in token.alternatives] == pytest.approx(expected, abs=1e-3)
            compared += len(allowed) > 1
    assert compared > 5


def test_a_crop_that_can_not_be_decoded_costs_that_crop(qwen):
    found = engine_of(qwen).annotate([CROPS[0], b"not an image", CROPS[1]])
    assert [answer.status for answer in found] == ["ok", "error", "ok"]
    assert found[1].reason == "the crop can't be decoded: not an image"


def test_out_of_memory_halves_the_batch_and_goes_on(qwen):
    engine = engine_of(qwen, batch_size=4)
    expected = engine_of(qwen, batch_size=4).annotate(CROPS)
    generate, seen = engine._model.generate, []

    def generate_if_it_fits(**inputs):
        seen.append(len(inputs["input_ids"]))
        if len(inputs["input_ids"]) > 2:
            torch.empty(1 << 60, dtype=torch.uint8)
        return generate(**inputs)

    engine._model.generate = generate_if_it_fits
    assert [a.values for a in engine.annotate(CROPS)] == [a.values for a in expected]
    assert seen == [4, 2, 2, 1]


def test_what_a_checkpoint_says_about_sampling_does_not_count(qwen, tmp_path):
    copy = shutil.copytree(qwen, tmp_path / "copy")
    path = copy / "generation_config.json"
    wild = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0, "max_new_tokens": 3}
    path.write_text(json.dumps({**json.loads(path.read_text()), **wild}))
    assert engine_of(copy).annotate(CROPS) == engine_of(qwen).annotate(CROPS)


# Before a run


def test_weights_that_could_run_code_are_refused(qwen, tmp_path):
    copy = shutil.copytree(qwen, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="has no weights in safetensors"):
        resolve_smolvlm(settings_of(copy), SMALL)


def test_code_of_a_checkpoint_is_never_run(qwen, tmp_path):
    copy = shutil.copytree(qwen, tmp_path / "copy")
    ran = tmp_path / "ran"
    (copy / "code.py").write_text(f"open({str(ran)!r}, 'w').close()")
    config = json.loads((copy / "config.json").read_text())
    auto_map = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"}
    (copy / "config.json").write_text(
        json.dumps({**config, "model_type": "our_own", "architectures": ["Model"], "auto_map": auto_map})
    )
    with pytest.raises(WeightsError, match="can't be loaded on this machine"):
        engine_of(copy)
    assert not ran.exists()


def test_a_processor_that_shows_no_picture_is_refused(qwen, tmp_path):
    copy = shutil.copytree(qwen, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content[1].text }}{% endfor %}")
    with pytest.raises(WeightsError, match="can't be used by engine generate"):
        engine_of(copy)


def test_how_a_smolvlm_is_shown_a_crop_is_not_a_setting_of_other_models(qwen):
    with pytest.raises(ConfigError, match=r"image_size_px .* is a 'qwen2_5_vl'"):
        resolve_smolvlm(settings_of(qwen, image_size_px=64), SMALL)


def test_the_fingerprint_names_the_engine(qwen, smolvlm):
    def fingerprint(folder, schema=SMALL, **changes):
        return resolve_smolvlm(settings_of(folder, **changes), schema).fingerprint

    base = fingerprint(qwen)
    changed = [
        fingerprint(qwen, dtype="bfloat16"),
        fingerprint(qwen, reasoning=True),
        fingerprint(qwen, SCHEMA),
    ]
    assert len({base, *changed}) == 4
    assert fingerprint(qwen, batch_size=3, letterbox=False) == base
    # Rules only check answers here, so they don't ask again.
    without_rules = AttributeSchema(SchemaSettings.model_validate({"rules": []}))
    assert fingerprint(qwen, SCHEMA) == fingerprint(qwen, without_rules)
    assert fingerprint(smolvlm, engine="guided") != fingerprint(smolvlm)
    assert fingerprint(smolvlm, letterbox=False) != fingerprint(smolvlm)
