"""The demo's SmolVLM is trained on the job's own prompts, and the job loads what training saves."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from actors.smolvlm.guided_engine import GuidedEngine
from actors.smolvlm.key_values import GROUPED_ATTENTION
from actors.smolvlm.settings import resolve_smolvlm
from demo.training.demo_settings import demo_schema, demo_settings
from demo.training.smolvlm_accuracy import accuracy
from demo.training.smolvlm_crops import cut_people, normalise, scale_crop
from demo.training.smolvlm_forward import predict_answers
from demo.training.smolvlm_model import job_prompt, make_model, make_processor
from demo.training.smolvlm_sequences import IGNORED, prompt_tokens, write_answer, write_answers
from demo.training.train_smolvlm import Recipe, train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SHIPPED = Path("demo/models/smolvlm")
UNSEEN_SEED = 424_242


@pytest.fixture(scope="module")
def schema():
    return demo_schema()


@pytest.fixture(scope="module")
def processor(schema):
    return make_processor(schema)


@pytest.fixture(scope="module")
def tokens(processor, schema):
    return prompt_tokens(processor, schema, job_prompt(schema))


@pytest.fixture(scope="module")
def people(schema):
    return list(cut_people(UNSEEN_SEED, 40, schema, jitter=True))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(3)
    make_model(processor.tokenizer).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_annotator(folder, schema, **changes):
    settings = demo_settings().smolvlm.model_copy(update={"model": str(folder), **changes})
    return GuidedEngine(settings, resolve_smolvlm(settings, schema), schema)


def test_the_prompt_trained_on_is_the_jobs(untrained, schema):
    settings = demo_settings().smolvlm.model_copy(update={"model": str(untrained)})
    assert job_prompt(schema) == resolve_smolvlm(settings, schema).prompt


def test_a_training_pass_sees_the_tokens_and_pixels_that_the_job_feeds(untrained, schema, tokens, people):
    annotator = make_annotator(untrained, schema)
    fed = []
    decode = annotator._decoder.decode
    annotator._decoder.decode = lambda tail, pixels: (fed.append((tail, pixels)), decode(tail, pixels))[1]
    annotator.annotate([person.crop for person in people[:3]])
    [(tail, pixels)] = fed
    assert tuple(annotator._prefix) == tokens.prefix
    assert tuple(tail) == tokens.tail
    images = annotator._processor.image_processor
    trained_on = normalise(np.stack([scale_crop(person.crop, images) for person in people[:3]]))
    np.testing.assert_allclose(pixels[:, 0].numpy(), trained_on, atol=1e-5)


def test_a_training_pass_predicts_what_guided_decoding_does(untrained, schema, tokens, people):
    annotator = make_annotator(untrained, schema)
    answers = annotator.annotate([person.crop for person in people[:4]])
    chosen = torch.tensor([[a.values.index(answer.values[a.name]) for a in schema] for answer in answers])
    pixels = normalise(
        np.stack([scale_crop(p.crop, annotator._processor.image_processor) for p in people[:4]])
    )
    model = _model_of(untrained)
    ids, _ = write_answers(annotator._processor.tokenizer, schema, chosen.tolist())
    with torch.inference_mode():
        logits = predict_answers(model, tokens.prefix, tokens.tail, ids, torch.from_numpy(pixels)).logits
    for row, answer in enumerate(answers):
        position = 0
        compared = 0
        for index, slot in enumerate(tokens.grammar.slots):
            position += len(slot.forced)
            value = int(chosen[row, index])
            if not slot.nodes:
                scores = logits[row, position, [path[0] for path in slot.paths]]
                for constraint in tokens.grammar.constraints:
                    if constraint.later == index:
                        allowed = constraint.allowed[int(chosen[row, constraint.earlier])]
                        scores = scores.masked_fill(~torch.tensor(allowed), float("-inf"))
                probability = scores.softmax(0)[value]
                assert answer.confidence[slot.name] == pytest.approx(float(probability), abs=1e-4)
                compared += 1
            position += len(slot.paths[value])
        assert compared == 9


def test_an_answer_trained_on_is_what_guided_decoding_forces_and_chooses(processor, schema, tokens, people):
    for person in people:
        guided = [
            token
            for slot, value in zip(tokens.grammar.slots, person.values, strict=True)
            for token in (*slot.forced, *slot.paths[value])
        ]
        [ids], _ = write_answers(processor.tokenizer, schema, [person.values])
        assert ids[: len(guided)].tolist() == guided
        assert processor.tokenizer.decode(ids[len(guided) :]) == '"}}<end_of_utterance>'


def test_an_answer_trained_on_is_read_back_by_the_schema(schema, people):
    for person in people:
        expected = {a.name: a.values[index] for a, index in zip(schema, person.values, strict=True)}
        assert schema.parse(json.loads(write_answer(schema, person.values))) == expected


def test_only_padding_is_not_learned(processor, schema):
    short = [0] * len(schema.names)
    long = [a.values.index("38 to 48") if a.name == "age_group" else 0 for a in schema]
    ids, targets = write_answers(processor.tokenizer, schema, [short, long])
    [shorter], [longer] = (write_answers(processor.tokenizer, schema, [row])[0] for row in (short, long))
    assert len(shorter) < len(longer) == ids.shape[1]
    assert targets[0].tolist() == shorter.tolist() + [IGNORED] * (len(longer) - len(shorter))
    assert targets[1].tolist() == ids[1].tolist() == longer.tolist()


@pytest.mark.long
@pytest.mark.slow
def test_training_learns_and_saves_what_the_job_loads(tmp_path, schema, people):
    recipe = Recipe(seed=1, scene_seeds=1, people=8, steps=2, batch_size=4)
    train(recipe, tmp_path / "once", tmp_path / "crops", workers=1)
    train(recipe, tmp_path / "again", tmp_path / "crops", workers=1)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "again")]
    assert weights[0] == weights[1]
    [answer] = make_annotator(tmp_path / "once", schema).annotate([people[0].crop])
    assert answer.status == "ok"
    assert tuple(answer.values) == schema.names


def test_accuracy_counts_right_answers_and_years(schema):
    truth = np.array([[a.values.index(v) for a, v in zip(schema, row, strict=True)] for row in TRUTH])
    answers = [dict(zip(schema.names, row, strict=True)) for row in ANSWERS]
    found = accuracy(answers, truth, schema)
    assert found["gender"] == 0.5
    assert found["exact_age"] == (3 + 122) / 2
    assert found["cap"] == 1.0


def test_the_shipped_model_is_small_and_in_half_precision():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 9_000_000
    weights = load_file(SHIPPED / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_the_shipped_model_answers_right_at_any_batch_size(schema, people):
    crops = [person.crop for person in people]
    together = make_annotator(SHIPPED, schema, batch_size=16).annotate(crops)
    alone = make_annotator(SHIPPED, schema, batch_size=1).annotate(crops)
    assert [answer.values for answer in together] == [answer.values for answer in alone]
    truth = np.array([person.values for person in people])
    found = accuracy([answer.values for answer in together], truth, schema)
    years = found.pop("exact_age")
    assert years <= 6
    assert np.mean(list(found.values())) >= 0.93


def test_the_shipped_model_writes_unguided_what_it_answers_guided(schema, people):
    """The decoder of transformers, which is independent of ours, gives the same answers."""
    crops = [person.crop for person in people[:12]]
    guided = make_annotator(SHIPPED, schema).annotate(crops)
    processor = AutoProcessor.from_pretrained(SHIPPED)
    model = AutoModelForImageTextToText.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    content = [{"type": "text", "text": job_prompt(schema)}, {"type": "image"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    for crop, answer in zip(crops, guided, strict=True):
        image = Image.open(io.BytesIO(crop)).convert("RGB")
        inputs = processor(
            text=text, images=[image], do_resize=False, do_image_splitting=False, return_tensors="pt"
        )
        written = model.generate(**inputs, max_new_tokens=60, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
        read = schema.parse(json.loads(processor.tokenizer.decode(written, skip_special_tokens=True)))
        assert read == answer.values


def _model_of(folder):
    return AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation={"text_config": GROUPED_ATTENTION, "vision_config": "sdpa"},
    ).eval()


_REST = (True, False, False, True, False, False, True, "summer")
TRUTH = [("male", "18 to 28", 20, *_REST), ("female", "58 and over", 70, *_REST)]
ANSWERS = [("male", "18 to 28", 23, *_REST), ("male", "unknown", None, *_REST)]
