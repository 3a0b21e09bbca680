"""The model is checked before a run, and neither a bad crop nor full memory stops the annotator."""

import dataclasses
import io
import json
import shutil
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.errors import ConfigError, WeightsError
from actors.smolvlm import guided_engine
from actors.smolvlm.guided_engine import GuidedEngine
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from tests.support.tiny_smolvlm import TINY, make_smolvlm, make_tiny_smolvlm

pytestmark = pytest.mark.usefixtures("one_torch_thread")

HUB_NAME = "owner/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_smolvlm(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def schema():
    return AttributeSchema(SchemaSettings())


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty hub cache, with the hub at a port on which nothing listens."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return cache


def settings_of(folder, **changes):
    return SmolVLMSettings.model_validate({"model": str(folder), **changes})


def make_annotator(folder, schema, **changes):
    settings = settings_of(folder, **changes)
    return GuidedEngine(settings, resolve_smolvlm(settings, schema), schema)


def make_crops(count, seed=0):
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        sink = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (60, 30, 3), dtype=np.uint8)).save(sink, "JPEG")
        crops.append(sink.getvalue())
    return crops


# Before a run


def test_a_folder_is_resolved_to_what_it_holds(folder, schema, tmp_path):
    first = resolve_smolvlm(settings_of(folder), schema)
    assert first.model == str(folder)
    assert first.model_version.startswith("sha256:")
    assert first.dtype == "float32"
    assert first.image_size_px == 64
    assert schema.prompt_text() in first.prompt
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert resolve_smolvlm(settings_of(copy), schema).model_version == first.model_version
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert resolve_smolvlm(settings_of(copy), schema).model_version != first.model_version


def test_the_fingerprint_follows_results_and_nothing_else(folder, schema, tmp_path):
    def fingerprint(of=schema, **changes):
        return resolve_smolvlm(settings_of(folder, **changes), of).fingerprint

    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Look: {schema}")
    other = AttributeSchema(SchemaSettings.model_validate({"attributes": {"a": {"type": "boolean"}}}))
    base = fingerprint()
    changed = [
        fingerprint(prompt=str(prompt)),
        fingerprint(dtype="bfloat16"),
        fingerprint(gpus_per_actor=0.5),
        fingerprint(reasoning=True),
        fingerprint(image_size_px=32),
        fingerprint(split_image=True),
        fingerprint(letterbox=False),
        fingerprint(of=other),
    ]
    assert base not in changed
    # On a GPU the dtype is bfloat16 by default, so these two settings are equivalent.
    assert changed[1] == changed[2]
    assert len(set(changed)) == 7
    assert fingerprint(batch_size=3, actors="auto", reasoning_max_tokens=7, dtype="float32") == base


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "has no config.json"),
        ("processor_config.json", "has no processor_config.json"),
        ("tokenizer.json", "has no tokenizer.json"),
        ("model.safetensors", "has no model.safetensors"),
    ],
)
def test_a_folder_that_lacks_a_file_is_named(folder, schema, tmp_path, name, said):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).unlink()
    with pytest.raises(WeightsError, match=rf"smolvlm\.model: .*{said}"):
        resolve_smolvlm(settings_of(copy), schema)


def test_a_missing_piece_of_split_weights_is_named(folder, schema, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"has no model-00002-of-00002\.safetensors"):
        resolve_smolvlm(settings_of(copy), schema)


def test_another_kind_of_model_is_refused_by_guided_decoding(folder, schema, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    with pytest.raises(WeightsError, match="'llava', not a SmolVLM"):
        resolve_smolvlm(settings_of(copy, engine="guided"), schema)


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "no-owner", "s3://bucket/model"])
def test_what_is_neither_folder_nor_hub_name_is_refused(schema, model):
    with pytest.raises(WeightsError, match=r"^smolvlm\.model: .*folder"):
        resolve_smolvlm(settings_of(model), schema)


def test_a_hub_out_of_reach_is_said_at_once_with_the_remedy(schema, empty_cache):
    started = time.monotonic()
    with pytest.raises(WeightsError) as raised:
        resolve_smolvlm(settings_of(HUB_NAME), schema)
    assert time.monotonic() - started < 5
    message = str(raised.value)
    assert message.startswith(f"smolvlm.model: {HUB_NAME} isn't in the cache and the hub is out of reach")
    assert f"give a folder that holds the model, or run `hf download {HUB_NAME}`" in message
    assert "HF_HOME" in message


def test_a_name_that_the_hub_does_not_know_is_said(schema, empty_cache, monkeypatch):
    class UnknownRepository(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    from huggingface_hub import constants

    with HTTPServer(("127.0.0.1", 0), UnknownRepository) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(
            WeightsError, match="isn't on the hub, or is private: check the name, or set HF_TOKEN"
        ):
            resolve_smolvlm(settings_of(HUB_NAME), schema)
        server.shutdown()


def test_a_cached_model_needs_no_hub(folder, schema, empty_cache):
    repository = empty_cache / "models--owner--tiny"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    resolved = resolve_smolvlm(settings_of(HUB_NAME), schema)
    assert (resolved.model, resolved.model_version, resolved.revision) == (HUB_NAME, COMMIT, COMMIT)
    (repository / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="out of reach"):
        resolve_smolvlm(settings_of(HUB_NAME), schema)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe", "can't be read"),
        (b"See <image>", "contains <image>"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused(folder, schema, tmp_path, content, said):
    path = tmp_path / "prompt.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"smolvlm\.prompt: .*{said}"):
        resolve_smolvlm(settings_of(folder, prompt=str(path)), schema)


def test_a_prompt_may_hold_braces(folder, schema, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text('Like {"gender": ...}, of {schema}')
    prompt = resolve_smolvlm(settings_of(folder, prompt=str(path)), schema).prompt
    assert prompt == f'Like {{"gender": ...}}, of {schema.prompt_text()}'


def test_an_image_size_that_does_not_fit_the_model_is_refused(schema, tmp_path):
    shuffled = make_smolvlm(tmp_path / "model", dataclasses.replace(TINY, scale=2))
    assert resolve_smolvlm(settings_of(shuffled, image_size_px=48), schema).image_size_px == 48
    with pytest.raises(ConfigError, match=r"image_size_px: 40 gives 5 patches .* take a multiple of 16"):
        resolve_smolvlm(settings_of(shuffled, image_size_px=40), schema)


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"actors": 0}, {"actors": "many"}, {"gpus_per_actor": -1}, {"dtype": "int8"}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        SmolVLMSettings.model_validate(wrong)


# The annotator


def test_a_crop_that_cannot_be_decoded_costs_that_crop(folder, schema):
    good = make_crops(5)
    crops = [good[0], b"", good[1], b"not an image", good[2][: len(good[2]) // 2], good[3], good[4]]
    annotator = make_annotator(folder, schema, batch_size=2)
    answers = annotator.annotate(crops)
    assert [a.status for a in answers] == ["ok", "error", "ok", "error", "error", "ok", "ok"]
    assert all(a.reason.startswith("the crop can't be decoded: ") for a in answers if a.status == "error")
    assert [a.values for a in answers if a.status == "error"] == [{}, {}, {}]
    assert [a.values for a in answers if a.status == "ok"] == [
        a.values for a in annotator.annotate([*good[:2], *good[3:]])
    ]
    assert annotator.annotate(crops) == answers
    assert annotator.annotate([]) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (900, 2)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_any_shape_and_colour_space_is_answered(folder, schema, size, mode):
    sink = io.BytesIO()
    Image.new(mode, size).save(sink, "JPEG")
    for changes in ({}, {"image_size_px": 32}, {"split_image": True}):
        assert [a.status for a in make_annotator(folder, schema, **changes).annotate([sink.getvalue()])] == [
            "ok"
        ]


def limit_batches(annotator, largest, error):
    """Make the decoder call `error` for batches of more than `largest` crops, as if memory were full.

    Returns:
        A list to which the size of each batch is added.
    """
    decode, seen = annotator._decoder.decode, []

    def decode_if_it_fits(tail, pixels):
        seen.append(len(pixels))
        if len(pixels) > largest:
            error()
        return decode(tail, pixels)

    annotator._decoder.decode = decode_if_it_fits
    return seen


@pytest.fixture
def submitted(monkeypatch):
    """A list to which each crop is added as soon as it is given to a thread to be prepared."""
    found = []

    class Counting(ThreadPoolExecutor):
        def submit(self, work, crop):
            found.append(crop)
            return super().submit(work, crop)

    monkeypatch.setattr(guided_engine, "ThreadPoolExecutor", Counting)
    return found


@pytest.mark.parametrize(
    ("limits", "ahead"),
    [({}, 6), ({"AHEAD": 2}, 2), ({"AHEAD_BYTES": 4 * 64 * 64 * 3 + 1}, 4), ({"AHEAD_BYTES": 1}, 0)],
)
def test_few_crops_are_prepared_ahead(folder, schema, submitted, monkeypatch, limits, ahead):
    for name, value in limits.items():
        monkeypatch.setattr(guided_engine, name, value)
    annotator = make_annotator(folder, schema, batch_size=6)
    counts = []
    answers = annotator.annotate(make_crops(20), lambda *_: counts.append(len(submitted)))
    assert counts == [min(20, done + ahead) for done in (6, 12, 18, 24)]
    assert [a.status for a in answers] == ["ok"] * 20


def test_the_pixels_of_a_batch_are_gone_before_more_are_prepared(folder, schema, monkeypatch):
    annotator = make_annotator(folder, schema, batch_size=6)
    prepare, made, left = annotator._prepare_one, [], []

    def prepare_and_look(crop):
        left.append(sum(pixels() is not None for pixels in made))
        prepared = prepare(crop)
        made.append(weakref.ref(prepared.pixels))
        return prepared

    monkeypatch.setattr(annotator, "_prepare_one", prepare_and_look)
    monkeypatch.setattr(guided_engine, "AHEAD", 0)
    assert len(annotator.annotate(make_crops(18))) == 18
    # A thread may hold the last one that it has prepared for a moment longer.
    assert max(left) <= 5 + 2


def raise_cuda_error():
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def ask_for_an_exabyte():
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [raise_cuda_error, ask_for_an_exabyte])
def test_out_of_memory_halves_the_batch_and_goes_on(folder, schema, error):
    crops = make_crops(20)
    expected = make_annotator(folder, schema).annotate(crops)
    annotator = make_annotator(folder, schema, batch_size=16)
    seen = limit_batches(annotator, 3, error)
    answers = annotator.annotate(crops)
    assert seen == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert [a.status for a in answers] == ["ok"] * 20
    assert [a.values for a in answers] == [a.values for a in expected]
    for one, other in zip(answers, expected, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=2e-6)


def test_each_crop_has_its_own_answer_while_batches_shrink_and_grow(folder, schema):
    crops = make_crops(40)
    crops[7] = crops[23] = b"not an image"
    expected = make_annotator(folder, schema).annotate(crops)
    assert len({str(answer.confidence) for answer in expected}) == 39
    annotator = make_annotator(folder, schema, batch_size=12)
    annotator._batches._larger_after = 1
    seen = limit_batches(annotator, 5, raise_cuda_error)
    starts = []

    def note(start, answers):
        starts.append((start, len(answers)))

    answers = annotator.annotate(crops, note)
    sizes = [size for _, size in starts]
    assert {a < b for a, b in pairwise(sizes)} == {True, False}, "batches grow and shrink"
    assert [start for start, _ in starts] == [sum(sizes[:n]) for n in range(len(sizes))]
    assert max(seen) > 5
    assert [a.status for a in answers] == [a.status for a in expected]
    assert [a.values for a in answers] == [a.values for a in expected]
    for one, other in zip(answers, expected, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=2e-6)


@pytest.mark.parametrize("error", [raise_cuda_error, ask_for_an_exabyte])
def test_out_of_memory_on_one_crop_is_that_crops_outcome(folder, schema, error):
    annotator = make_annotator(folder, schema, batch_size=4)
    seen = limit_batches(annotator, 0, error)
    answers = annotator.annotate(make_crops(3))
    assert seen == [3, 1, 1, 1]
    assert [a.status for a in answers] == ["error"] * 3
    assert all(a.reason.startswith("out of memory on a single crop: ") for a in answers)
    assert all("\n" not in a.reason for a in answers)


def test_other_failures_of_the_model_are_not_taken_for_a_full_memory(folder, schema):
    annotator = make_annotator(folder, schema, batch_size=4)

    def multiply_wrong_shapes():
        torch.ones(2, 3) @ torch.ones(2, 3)

    limit_batches(annotator, 0, multiply_wrong_shapes)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        annotator.annotate(make_crops(3))


def test_weights_that_the_file_lacks_are_not_made_up(folder, schema, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    del weights["model.connector.modality_projection.proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks weights: model\.connector\.modality_projection"):
        make_annotator(copy, schema)


def test_a_folder_that_a_worker_does_not_see_is_said(folder, schema, tmp_path):
    settings = settings_of(shutil.copytree(folder, tmp_path / "copy"))
    resolved = resolve_smolvlm(settings, schema)
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(WeightsError, match=r"can't be loaded on this machine.*every worker must see it"):
        GuidedEngine(settings, resolved, schema)


def test_a_crop_keeps_its_shape_between_grey_bars_unless_it_is_to_be_stretched(folder, schema):
    sink = io.BytesIO()
    Image.new("RGB", (170, 512), "white").save(sink, "JPEG", quality=100)

    def columns(**changes):
        [[tile]] = make_annotator(folder, schema, **changes).pictures([sink.getvalue()])
        assert tile.shape == (3, 64, 64)
        assert float((tile - tile[:, :1]).abs().max()) < 0.02
        return tile[0, 0].tolist()

    shown = columns()
    white = [index for index, value in enumerate(shown) if value > 0.5]
    # 170 of 512 columns are 21.25 of 64.
    assert len(white) in (21, 22)
    assert white == list(range(white[0], white[-1] + 1))
    assert white[0] in (21, 22)
    assert max(abs(value) for value in shown[:20] + shown[-20:]) < 0.02
    assert min(columns(letterbox=False)) > 0.98


def test_crops_that_are_split_into_tiles_have_no_bars(folder, schema):
    [crop] = make_crops(1)
    one, other = (
        make_annotator(folder, schema, split_image=True, letterbox=letterbox)._prepare_one(crop)
        for letterbox in (True, False)
    )
    assert one.ids == other.ids
    assert torch.equal(one.pixels, other.pixels)
