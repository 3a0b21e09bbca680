"""Measure the speed of the guided annotator against three references measured in the same run.

The references, and the persons/s that the annotator should reach relative to each of them:

    a  batched `generate` of 160 tokens, same dtype and batch size    at least 1.5 times
    b  one crop at a time with the processor's defaults (17 tiles)    at least 8 times
    c  vision tower and prefill alone, without an answer              at least 0.75 times

On a CPU in float32, the same annotator with its vision tower in OpenVINO is compared with it in turns:

    d  guided in torch, float32                                       at least 2.0 times
    e  accuracy of the demo's model on drawn people, per attribute    at most 0.5 points less

`d` counts the fastest of the precisions that `smolvlm.vision=auto` tries. What vision and the rest take by
themselves says where the time goes, and so does the share of the time in which the device computes at all.
Random weights say nothing about answers, so that is `e`.

The model has the architecture of SmolVLM2-256M and random weights, so nothing is downloaded. The time of
a forward pass doesn't depend on the weights. `c` is measured with an empty prompt, which is stricter: a
run without the shared prefix would have to prefill the whole prompt.

    python -m benchmarks.vlm [--batch 8] [--dtype float32] [--device cuda] [--quick]
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.detect.settings import is_fast_in_bfloat16
from actors.prompt import read_prompt
from actors.smolvlm.guided_decoding import Vision
from actors.smolvlm.guided_engine import GuidedEngine
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from actors.smolvlm.vision_tower import VisionTower
from benchmarks.busy_share import busy_share
from benchmarks.figures import Figures
from benchmarks.machine import describe_cpu
from benchmarks.tower_accuracy import losses
from jobs.run.tower_trial import make_candidates
from tests.support.tiny_smolvlm import TINY, Architecture, make_smolvlm

SMOLVLM2_256M = Architecture(
    side_px=512,
    patch_px=16,
    scale=4,
    vision={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    text={
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49280,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
    },
)
_GENERATED_TOKENS = 160
_PEOPLE = 400
_QUANTISED_ON = 8


@dataclass(frozen=True, slots=True)
class Arrangement:
    """One way to run the annotator: precision of the vision tower, of the text model, and what runs both."""

    tower: str
    text: str
    engine: GuidedEngine
    vision: Vision

    def annotate(self, crops: list[bytes]) -> None:
        """Answer crops."""
        self.engine.vision = self.vision
        answers = self.engine.annotate(crops)
        assert [answer.status for answer in answers] == ["ok"] * len(crops)

    def see(self, crops: list[bytes]) -> None:
        """Run the vision tower alone, picture by picture."""
        for pixels in self.engine.pictures(crops):
            self.vision(pixels[None])


class Bench:
    """One model on one device, and the ways of asking it that are compared."""

    def __init__(self, folder: Path, batch: int, dtype: str, device: str) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        gpus = 1 if device == "cuda" else 0
        settings = SmolVLMSettings.model_validate(
            {"model": str(folder), "batch_size": batch, "dtype": dtype, "gpus_per_actor": gpus}
        )
        schema = AttributeSchema(SchemaSettings())
        resolved = resolve_smolvlm(settings, schema)
        self._device = device
        self._prompt = resolved.prompt
        self._settings, self._schema = settings, schema
        self._annotator = GuidedEngine(settings, resolved, schema)
        self._processor: Any = AutoProcessor.from_pretrained(folder)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=getattr(torch, resolved.dtype), attn_implementation="sdpa"
        )
        self._model = model.to(device).eval()

    def guided(self, crops: list[bytes]) -> None:
        """Ask any number of crops with guided decoding, as the job does."""
        answers = self._annotator.annotate(crops)
        assert [answer.status for answer in answers] == ["ok"] * len(crops)

    def arrangements(self) -> list[Arrangement]:
        """Return the annotator in torch, and then in all precisions that are tried."""
        resolved = resolve_smolvlm(self._settings, self._schema)
        engines = [(resolved.dtype, self._annotator)]
        if is_fast_in_bfloat16():
            settings = self._settings.model_copy(update={"dtype": "bfloat16"})
            resolved = resolve_smolvlm(settings, self._schema)
            engines.append((resolved.dtype, GuidedEngine(settings, resolved, self._schema)))
        pictures = crops_of_people(_QUANTISED_ON, seed=1)
        found = [Arrangement("torch", resolved.dtype, self._annotator, self._annotator.vision)]
        for candidate in make_candidates(self._annotator, resolved.image_size_px, pictures):
            tower = VisionTower(candidate.files, candidate.arithmetic, torch.get_num_threads())
            found += [Arrangement(candidate.precision, text, engine, tower) for text, engine in engines]
        return found

    def generate(self, crops: list[bytes], tiles: bool = False) -> None:
        """Generate freely, about as many tokens as an answer has."""
        inputs = self._inputs(crops, self._prompt, tiles)
        length = {"max_new_tokens": _GENERATED_TOKENS, "min_new_tokens": _GENERATED_TOKENS}
        self._model.generate(**inputs, **length, do_sample=False)

    @torch.inference_mode()
    def prefill(self, crops: list[bytes]) -> None:
        """Run the vision tower, and the text model on the image's tokens."""
        logits = self._model(**self._inputs(crops, "", tiles=False), logits_to_keep=1).logits
        logits.argmax().item()

    def lengths(self) -> str:
        """Describe how many tokens prompt and answer have with this tokenizer."""
        tokenizer = self._processor.tokenizer
        schema = AttributeSchema(SchemaSettings())
        answer = json.dumps(schema.nest({a.name: a.values[0] for a in schema}))
        counts = [len(tokenizer.encode(text, add_special_tokens=False)) for text in (self._prompt, answer)]
        return f"prompt {counts[0]} tokens, answer {counts[1]} tokens"

    def image_count(self, crop: bytes) -> int:
        """Return the number of tiles that the processor's defaults split a crop into."""
        return int(self._inputs([crop], "", tiles=True)["pixel_values"].shape[1])

    def _inputs(self, crops: list[bytes], prompt: str, tiles: bool) -> Any:
        images = [[Image.open(io.BytesIO(crop)).convert("RGB")] for crop in crops]
        content = [{"type": "text", "text": prompt}, {"type": "image"}]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        resizing = {} if tiles else {"do_image_splitting": False, "do_resize": False}
        inputs = self._processor(
            text=[text] * len(crops), images=images, return_tensors="pt", images_kwargs=resizing
        )
        return inputs.to(self._device, self._model.dtype)


def crops_of_people(count: int, seed: int = 0) -> list[bytes]:
    """Make JPEG crops of smooth noise, 240 px high and 200 px wide."""
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        pixels = rng.integers(0, 255, (24, 20, 3), dtype=np.uint8)
        sink = io.BytesIO()
        Image.fromarray(pixels).resize((200, 240)).save(sink, "JPEG")
        crops.append(sink.getvalue())
    return crops


def best_seconds(works: Sequence[Callable[[], None]], rounds: int, warm_up: bool) -> list[float]:
    """Measure the shortest wall time of each call.

    Rounds alternate between the calls, so that a busy moment of the machine doesn't affect only one of them.
    """
    times: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + warm_up):
        for work, taken in zip(works, times, strict=True):
            started = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm_up:
                taken.append(time.perf_counter() - started)
    return [min(taken) for taken in times]


def compare_towers(figures: Figures, bench: Bench, crops: list[bytes], rounds: int) -> None:
    """Measure and print `d` and `e`."""
    ways = bench.arrangements()
    whole = best_seconds([partial(way.annotate, crops) for way in ways], rounds, warm_up=True)
    vision = best_seconds([partial(way.see, crops[:2]) for way in ways], rounds, warm_up=True)
    print("vision tower   text model    s/crop   of it vision   times torch")
    for way, seconds, seeing in zip(ways, whole, vision, strict=True):
        print(
            f"{way.tower:12}   {way.text:10}  {seconds / len(crops):8.3f}   {seeing / 2:12.3f}   "
            f"{whole[0] / seconds:11.2f}"
        )
    fastest = min(range(1, len(ways)), key=lambda index: whole[index])
    figures.add(
        "d  guided in OpenVINO against torch",
        whole[0] / whole[fastest],
        "times",
        at_least=2.0,
        note=f"vision in {ways[fastest].tower}, text in {ways[fastest].text}; vision takes "
        f"{vision[fastest] / 2:.2f} of {whole[fastest] / len(crops):.2f} s, in torch {vision[0] / 2:.2f} of "
        f"{whole[0] / len(crops):.2f} s",
    )
    for precision, name, points in losses(24 if figures.is_quick else _PEOPLE, torch.get_num_threads()):
        figures.add(f"e  accuracy lost in {precision}", points, "points", at_most=0.5, note=name)


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, help="crops in a batch; by default 8, and 64 on a GPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--quick", action="store_true", help="check that everything runs, with a tiny model; don't measure"
    )
    given = parser.parse_args()
    given.batch = given.batch or (64 if given.device == "cuda" else 8)
    crops = crops_of_people(given.batch)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        schema = AttributeSchema(SchemaSettings())
        # A tokenizer with the prompt's words gives about as many tokens as SmolLM2's tokenizer.
        texts = (schema.prompt_text(), schema.prompt_uncertainty())
        corpus = [read_prompt("smolvlm.prompt", None, "smolvlm.txt", *texts).text]
        architecture = TINY if given.quick else SMOLVLM2_256M
        model = make_smolvlm(Path(folder), architecture, corpus=corpus)
        bench = Bench(model, given.batch, given.dtype, given.device)
        tiles = bench.image_count(crops[0])
        print(describe_cpu())
        print(bench.lengths())
        print(f"{given.device}, {given.dtype}, batch {given.batch}, {torch.get_num_threads()} threads")
        pair = (lambda: bench.prefill(crops), lambda: bench.guided(crops))
        prefill_s, guided_s = (t / given.batch for t in best_seconds(pair, given.rounds, warm_up=True))
        generate_s = best_seconds([lambda: bench.generate(crops)], 1, warm_up=False)[0] / given.batch
        single_s = best_seconds([lambda: bench.generate(crops[:1], tiles=True)], 1, warm_up=False)[0]
        figures = Figures("vlm", given.quick)
        for what, reference_s, wanted in (
            (f"a  guided against generate, {_GENERATED_TOKENS} tokens, batched", generate_s, 1.5),
            (f"b  guided against generate, one crop, {tiles} tiles", single_s, 8),
            ("c  guided against vision and prefill alone", prefill_s, 0.75),
        ):
            note = f"{guided_s:.3f} against {reference_s:.3f} s a crop"
            figures.add(what, reference_s / guided_s, "times", at_least=wanted, note=note)
        batches = 4 if given.device == "cuda" else 1
        figures.add(
            f"   share of the time in which the {given.device.upper()} computes",
            busy_share(lambda: bench.guided(crops * batches), given.device),
            note=f"guided, {batches} batches of {given.batch}",
        )
        if given.device == "cpu" and given.dtype != "bfloat16":
            compare_towers(figures, bench, crops, given.rounds)


if __name__ == "__main__":
    main()
