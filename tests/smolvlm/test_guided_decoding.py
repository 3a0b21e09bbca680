"""Guided answers are valid by construction, have exact confidences and don't depend on their batch."""

import io
import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.smolvlm.answer_grammar import answer_grammar
from actors.smolvlm.crop_pictures import letterboxed, set_tiles
from actors.smolvlm.guided_decoding import GuidedDecoder
from actors.smolvlm.guided_engine import GuidedEngine
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from tests.support.tiny_smolvlm import make_tiny_smolvlm

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ODD_SCHEMA = {
    # Some values are prefixes of others, share tokens, need escapes or are signed.
    "sport": {"type": "category", "values": ["ski", "ski jump", 'say "hi"', "\u00e9t\u00e9", "a/b\\c"]},
    "change": {"type": "integer", "min": -12, "max": 11, "nested": False},
    "year": {"type": "integer", "min": 1990, "max": 2030, "nullable": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_smolvlm(tmp_path_factory.mktemp("model"))


def make_annotator(folder, attributes=None, rules=None, **changes):
    settings = SmolVLMSettings(model=str(folder), **changes)
    given = {} if attributes is None else {"attributes": attributes}
    given |= {} if rules is None else {"rules": rules}
    schema = AttributeSchema(SchemaSettings.model_validate(given))
    return GuidedEngine(settings, resolve_smolvlm(settings, schema), schema)


def make_crops(count, seed=0):
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        height, width = rng.integers(8, 200, 2)
        pixels = rng.integers(0, 255, (4, 3, 3), dtype=np.uint8)
        sink = io.BytesIO()
        Image.fromarray(pixels).resize((int(width), int(height))).save(sink, "JPEG")
        crops.append(sink.getvalue())
    return crops


def tokenizer_of(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer, lambda text: tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("attributes", [None, ODD_SCHEMA])
def test_forced_text_and_values_spell_the_json_document(folder, attributes):
    given = (
        SchemaSettings() if attributes is None else SchemaSettings.model_validate({"attributes": attributes})
    )
    schema = AttributeSchema(given)
    tokenizer, encode = tokenizer_of(folder)
    grammar = answer_grammar(schema, encode)
    for seed in range(100):
        chooser = random.Random(seed)
        ids, values = [], {}
        for slot in grammar.slots:
            index = chooser.randrange(len(slot.values))
            ids += [*slot.forced, *slot.paths[index]]
            values[slot.name] = slot.values[index]
        document = json.dumps({**schema.nest(values), "reasoning": ""}, ensure_ascii=False)
        assert tokenizer.decode([*ids, *grammar.reasoning]) + '"}' == f" {document}"


@pytest.mark.parametrize("attributes", [None, ODD_SCHEMA])
def test_routes_lead_from_the_root_to_every_value(folder, attributes):
    given = (
        SchemaSettings() if attributes is None else SchemaSettings.model_validate({"attributes": attributes})
    )
    _, encode = tokenizer_of(folder)
    for slot in answer_grammar(AttributeSchema(given), encode).slots:
        assert len(slot.values) == len(slot.paths) == len(slot.routes) == len(set(slot.routes))
        for path, route in zip(slot.paths, slot.routes, strict=True):
            walked, at = [], -1
            for edge in route:
                node, token = slot.edges[edge]
                assert node == at
                walked.append(token)
                at = next((i for i, n in enumerate(slot.nodes) if n == (node, token)), None)
            assert tuple(walked[: len(path)]) == path
            assert len(walked) <= len(path) + 1
        ends = {slot.edges[route[-1]] for route in slot.routes}
        assert len(ends) == len(slot.values)
        assert not ends & set(slot.nodes)


class BruteForce:
    """Ask the plain model the same question with a full forward pass for every value, sharing nothing."""

    def __init__(self, folder, annotator):
        from transformers import AutoModelForImageTextToText

        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.annotator = annotator

    @torch.inference_mode()
    def log_probability(self, crop, before, value):
        prepared = self.annotator._prepare_one(crop)
        ids = [*prepared.ids, *before, *value]
        (pixels,) = self.annotator.pictures([crop])
        logits = self.model(input_ids=torch.tensor([ids]), pixel_values=pixels[None]).logits[0]
        scores = logits.float().log_softmax(-1)
        first = len(ids) - len(value)
        return sum(scores[first + i - 1, token].item() for i, token in enumerate(value))


def check_against_brute_force(folder, attributes, crops):
    annotator = make_annotator(folder, attributes, batch_size=4)
    brute = BruteForce(folder, annotator)
    given = (
        SchemaSettings() if attributes is None else SchemaSettings.model_validate({"attributes": attributes})
    )
    _, encode = tokenizer_of(folder)
    grammar = answer_grammar(AttributeSchema(given), encode)
    compared = 0
    for crop, answer in zip(crops, annotator.annotate(crops), strict=True):
        before, chosen = [], []
        for number, slot in enumerate(grammar.slots):
            before += slot.forced
            scored = [[slot.edges[edge][1] for edge in route] for route in slot.routes]
            totals = torch.tensor([brute.log_probability(crop, before, tokens) for tokens in scored])
            for constraint in grammar.constraints:
                if constraint.later == number:
                    totals[~torch.tensor(constraint.allowed[chosen[constraint.earlier]])] = float("-inf")
            probabilities = totals.double().softmax(0)
            index = int(probabilities.argmax())
            assert answer.values[slot.name] == slot.values[index], slot.name
            assert answer.confidence[slot.name] == pytest.approx(float(probabilities[index]), abs=2e-5), (
                slot.name
            )
            order = probabilities.argsort(descending=True, stable=True).tolist()
            kept = order[: 8 if slot.is_integer else None]
            for (value, share), position in zip(answer.distribution[slot.name], kept, strict=True):
                assert share == pytest.approx(float(probabilities[position]), abs=2e-5)
                assert float(probabilities[slot.values.index(value)]) == pytest.approx(share, abs=2e-5)
            before += slot.paths[index]
            chosen.append(index)
            compared += 1
    return compared


def test_confidences_equal_teacher_forced_scoring_of_every_value(folder):
    assert check_against_brute_force(folder, None, make_crops(2)) == 22


def test_confidences_are_exact_where_values_begin_others(folder):
    assert check_against_brute_force(folder, ODD_SCHEMA, make_crops(4, seed=1)) == 12


@pytest.mark.parametrize("seed", range(3))
def test_every_answer_is_valid_and_answers_differ(tmp_path, seed):
    annotator = make_annotator(make_tiny_smolvlm(tmp_path / "model", seed), batch_size=16)
    schema = AttributeSchema(SchemaSettings())
    answers = annotator.annotate(make_crops(40, seed))
    assert [a.status for a in answers] == ["ok"] * 40
    for answer in answers:
        assert schema.parse(json.loads(json.dumps(schema.nest(answer.values)))) == answer.values
        assert list(answer.values) == list(answer.confidence) == list(schema.names)
        for name, attribute in zip(schema.names, schema, strict=True):
            assert 1 / len(attribute.values) - 1e-6 <= answer.confidence[name] <= 1 + 1e-6
    assert len({json.dumps(a.values) for a in answers}) >= 5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"split_image": True}, marks=pytest.mark.long),
        {"reasoning": True, "reasoning_max_tokens": 8},
    ],
)
def test_answers_do_not_depend_on_batch_size_or_neighbours(folder, changes):
    # With seed 0, two tokens of an explanation differ by less than float32 can tell.
    crops = make_crops(17, seed=1)
    alone = make_annotator(folder, batch_size=1, **changes).annotate(crops)
    order = list(range(17))
    random.Random(0).shuffle(order)
    for batch_size in (3, 16):
        together = make_annotator(folder, batch_size=batch_size, **changes).annotate(crops)
        shuffled = make_annotator(folder, batch_size=batch_size, **changes).annotate(
            [crops[i] for i in order]
        )
        for found in (together, [shuffled[order.index(i)] for i in range(17)]):
            for one, other in zip(alone, found, strict=True):
                assert other.values == one.values
                assert other.reasoning == one.reasoning
                assert other.confidence == pytest.approx(one.confidence, abs=2e-6)


@pytest.mark.parametrize("split_image", [False, True])
def test_pictures_and_features_are_those_of_transformers(folder, split_image):
    from transformers import AutoProcessor

    crops = make_crops(6)
    annotator = make_annotator(folder, split_image=split_image)
    processor = AutoProcessor.from_pretrained(folder)
    set_tiles(processor, annotator.model, 64, split_image)
    shown = []
    for crop, pixels in zip(crops, annotator.pictures(crops), strict=True):
        image = Image.open(io.BytesIO(crop))
        image = image if split_image else letterboxed(image)
        expected = processor(text="<image>", images=[image], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(pixels, expected)
        shown.append(pixels[-2:])
    assert {len(pixels) for pixels in shown} == {2 if split_image else 1}
    with torch.inference_mode():
        seen = annotator.model.model.get_image_features(torch.stack(shown)).pooler_output
        assert torch.equal(annotator.vision(torch.stack(shown)), torch.stack(list(seen)))


class Masks(TorchDispatchMode):
    """Keeps the names of operations that select by a mask, whose size a host waits for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        by_mask = name in {"index", "index_put", "index_put_", "_index_put_impl_"} and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in {"masked_select", "nonzero"}:
            self.found.append(name)
        return operation(*args, **kwargs or {})


def test_the_passes_of_an_answer_do_not_wait_for_the_device(folder):
    schema = AttributeSchema(SchemaSettings())
    tokenizer, encode = tokenizer_of(folder)
    tail = [tokenizer.convert_tokens_to_ids("<image>")] * 4 + encode("and a question")
    # Tensors on "meta" have no content, so where the host looks at one, this fails.
    decoder = GuidedDecoder(
        make_annotator(folder).model.to("meta"), answer_grammar(schema, encode), encode("a prompt")
    )
    decoder.vision = lambda pixels: torch.empty(len(pixels), 4, 64, device="meta")
    with torch.inference_mode(), Masks() as masks:
        answers, _ = decoder._decode(tail, torch.empty(3, 1, 3, 64, 64, device="meta"))
        assert [order.shape[0] for _, order in answers] == [3] * len(schema)
        assert masks.found == []
        assert len(torch.zeros(3)[torch.zeros(3, dtype=torch.bool)]) == 0
        assert masks.found == ["index"]


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_compiled_passes_give_the_same_answers_in_batches_of_one_size(folder, monkeypatch, backend):
    # Also without a compiler of C++ behind it, torch.compile traces each pass and runs its program instead.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    attributes = {name: ODD_SCHEMA[name] for name in ("sport", "year")}
    crops = make_crops(5)
    expected = make_annotator(folder, attributes, batch_size=3).annotate(crops)
    compiled = make_annotator(folder, attributes, batch_size=3, compile=True)
    rows = []
    decode = compiled._decoder.decode
    monkeypatch.setattr(
        compiled._decoder, "decode", lambda tail, pixels: rows.append(len(pixels)) or decode(tail, pixels)
    )
    counters.clear()
    answers = compiled.annotate(crops)
    assert rows == [3, 3]
    assert counters["stats"]["unique_graphs"] == len(attributes)
    assert not counters["graph_break"]
    for one, other in zip(expected, answers, strict=True):
        assert other.values == one.values
        assert other.confidence == pytest.approx(one.confidence, abs=1e-5)


@pytest.mark.parametrize("wrong", [{"batch_size": "auto"}, {"batch_size": 8, "engine": "generate"}])
def test_compiling_needs_guided_decoding_and_one_size(wrong):
    with pytest.raises(ValidationError, match="compile is for guided decoding with a batch_size"):
        SmolVLMSettings(compile=True, **wrong)


def test_the_same_batch_gives_the_same_bits(folder):
    annotator = make_annotator(folder, batch_size=5)
    crops = make_crops(10)
    first = annotator.annotate(crops)
    annotator.annotate(make_crops(7, seed=9))
    assert annotator.annotate(crops) == first


def test_reasoning_is_short_valid_text_and_leaves_the_answer_alone(folder):
    crops = make_crops(12)
    plain = make_annotator(folder).annotate(crops)
    reasoned = make_annotator(folder, reasoning=True, reasoning_max_tokens=12).annotate(crops)
    schema = AttributeSchema(SchemaSettings())
    for one, other in zip(plain, reasoned, strict=True):
        assert one.reasoning is None
        assert other.values == one.values
        assert other.confidence == pytest.approx(one.confidence, abs=2e-6)
        assert other.reasoning is not None
        assert schema.parse({**schema.nest(other.values), "reasoning": other.reasoning}) == other.values


def ages_within_groups(answers):
    groups = {"under 18": (0, 18), "18 to 28": (18, 28), "28 to 38": (28, 38), "38 to 48": (38, 48)}
    groups |= {"48 to 58": (48, 58), "58 and over": (58, 121), "unknown": (0, 121)}
    ranges = [groups[a.values["age_group"]] for a in answers]
    ages = [a.values["exact_age"] for a in answers]
    return [age is None or low <= age < above for age, (low, above) in zip(ages, ranges, strict=True)]


def test_no_answer_breaks_a_rule_and_without_rules_some_do(tmp_path):
    schema = AttributeSchema(SchemaSettings())
    for seed in range(3):
        folder, crops = make_tiny_smolvlm(tmp_path / f"model-{seed}", seed), make_crops(40, seed)
        free = make_annotator(folder, rules=[], batch_size=16).annotate(crops)
        bound = make_annotator(folder, batch_size=16).annotate(crops)
        assert [schema.violations(answer.values) for answer in bound] == [[]] * 40
        assert all(ages_within_groups(bound))
        if any(schema.violations(answer.values) for answer in free):
            break
    else:
        pytest.fail("no model breaks a rule, so the rules were not tested")
    for answer in bound:
        for name, shares in answer.distribution.items():
            allowed = {value for value, share in shares if share > 0}
            for value in allowed if name == "exact_age" else ():
                assert "exact_age within age_group" not in schema.violations(answer.values | {name: value})


def test_a_rule_that_leaves_no_value_is_broken_and_named(folder):
    attributes = {
        "group": {
            "type": "category",
            "values": ["old", "very old"],
            "ranges": {"old": [60, 70], "very old": [70, 90]},
        },
        "age": {"type": "integer", "min": 0, "max": 9},
    }
    rules = ["age within group"]
    schema = AttributeSchema(SchemaSettings.model_validate({"attributes": attributes, "rules": rules}))
    answers = make_annotator(folder, attributes, rules).annotate(make_crops(3))
    assert [answer.status for answer in answers] == ["ok"] * 3
    assert [schema.violations(answer.values) for answer in answers] == [rules] * 3
