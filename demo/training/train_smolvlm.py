"""Train the demo's SmolVLM from scratch on simulated crops, with the job's prompt and the demo's schema.

    python -m demo.training.train_smolvlm --output demo/models/smolvlm

The training sequences are those that guided decoding runs: the shared prompt, the image and the true
answer. During training, a linear head on the mean of the image tokens learns the categories too, so that
the vision tower becomes useful early. The head is dropped at the end. On the same machine, the same seed
and number of threads give the same weights.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from actors.attributes import AttributeSchema
from demo.training.demo_settings import demo_schema
from demo.training.smolvlm_accuracy import answer_accuracy, describe
from demo.training.smolvlm_crops import LabelledCrops, normalise, render_crops
from demo.training.smolvlm_forward import predict_answers
from demo.training.smolvlm_model import job_prompt, make_model, make_processor
from demo.training.smolvlm_sequences import IGNORED, PromptTokens, prompt_tokens, write_answers

log = logging.getLogger("demo.training.train_smolvlm")

HELD_OUT_SEED = 900_001
"""Seed of the scenes on which accuracy is reported during training."""

_FIRST_SEED = 1_000
"""First seed of the scenes to train on; the other seeds follow it."""

_SHIFT_PX = 3
"""Maximum shift of a crop within its square, in addition to the jitter of its box."""

_REPORT_STEPS = 200


@dataclass(frozen=True, slots=True)
class Recipe:
    """Data and hyperparameters of a training run.

    Attributes:
        seed: Seed of the weights and of the order of crops.
        scene_seeds: Number of stores to train on.
        people: Number of crops of each store, including the one on which accuracy is reported.
        steps: Number of updates of the weights.
        batch_size: Number of crops per update.
        learning_rate: Highest learning rate, used after `warmup_steps`; it then falls to 0 along a cosine.
        warmup_steps: Number of updates over which the learning rate rises.
        weight_decay: Weight decay of matrices; other parameters have none.
        summary_weight: Initial weight of the loss of the head that is dropped at the end; it falls to 0
            half way through the training.
    """

    seed: int = 11
    scene_seeds: int = 30
    people: int = 400
    steps: int = 4_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    summary_weight: float = 1.0


def train(recipe: Recipe, output: Path, cache: Path, workers: int) -> None:
    """Train and save a model with its tokenizer and processor, in half precision.

    Args:
        recipe: Data and hyperparameters.
        output: Folder for the checkpoint, created if missing.
        cache: Folder for the rendered crops, so that a second run doesn't need to draw them.
        workers: Number of processes that draw.
    """
    schema = demo_schema()
    processor = make_processor(schema)
    torch.manual_seed(recipe.seed)
    model = make_model(processor.tokenizer)
    tokens = prompt_tokens(processor, schema, job_prompt(schema))
    images = processor.image_processor
    seeds = range(_FIRST_SEED, _FIRST_SEED + recipe.scene_seeds)
    crops = render_crops(cache, seeds, recipe.people, schema, images, workers)
    held_out = render_crops(cache, [HELD_OUT_SEED], recipe.people, schema, images, workers)
    log.info("%d parameters, %d crops", sum(p.numel() for p in model.parameters()), len(crops.values))
    _fit(model, processor.tokenizer, tokens, crops, held_out, schema, recipe)
    output.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(output)
    processor.save_pretrained(output)


def _fit(
    model: Any,
    tokenizer: Any,
    tokens: PromptTokens,
    crops: LabelledCrops,
    held_out: LabelledCrops,
    schema: AttributeSchema,
    recipe: Recipe,
) -> None:
    columns = [index for index, attribute in enumerate(schema) if attribute.type != "integer"]
    sizes = [len(attribute.values) for attribute in schema if attribute.type != "integer"]
    head = torch.nn.Linear(model.config.text_config.hidden_size, sum(sizes))
    optimizer = _optimizer(model, head, recipe)
    began = time.monotonic()
    batches = _batches(crops, recipe)
    for step, (pixels, values) in enumerate(batches, start=1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe)
        answers, targets = write_answers(tokenizer, schema, values.tolist())
        predicted = predict_answers(model, tokens.prefix, tokens.tail, answers, pixels)
        answer_loss = cross_entropy(
            predicted.logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        ) / len(pixels)
        parts = head(predicted.summary).split(sizes, dim=1)
        summary_loss = torch.stack(
            [cross_entropy(part, values[:, column]) for part, column in zip(parts, columns, strict=True)]
        ).sum()
        weight = recipe.summary_weight * max(0.0, 1 - 2 * step / recipe.steps)
        (answer_loss + weight * summary_loss).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            rate = step * recipe.batch_size / (time.monotonic() - began)
            losses = (answer_loss.item(), summary_loss.item(), rate)
            log.info("step %d: loss %.3f answer, %.3f summary; %.1f crops/s", step, *losses)
        if step % _REPORT_STEPS == 0 or step == recipe.steps:
            log.info("step %d held out: %s", step, describe(answer_accuracy(model, tokens, held_out, schema)))


def _optimizer(model: Any, head: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [*model.parameters(), *head.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def _schedule(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step as a share of the highest one."""
    warm = min(1.0, step / recipe.warmup_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def _batches(crops: LabelledCrops, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of crops in random order, epoch after epoch, with random changes.

    Half of the crops are mirrored; all are shifted a little and made brighter or darker.

    Yields:
        Pixels, (rows, 3, side, side) float32, normalised, and values, (rows, attributes) int64.
    """
    rng = np.random.default_rng(recipe.seed)
    order = np.empty(0, np.int64)
    for _ in range(recipe.steps):
        while len(order) < recipe.batch_size:
            order = np.concatenate([order, rng.permutation(len(crops.values))])
        rows, order = order[: recipe.batch_size], order[recipe.batch_size :]
        moved = np.stack([_moved(crops.pixels[row], rng) for row in rows])
        gain, offset = (
            rng.uniform(0.9, 1.1, (len(rows), 1, 1, 1)),
            rng.uniform(-0.1, 0.1, (len(rows), 1, 1, 1)),
        )
        lit = np.clip(normalise(moved) * gain + offset, -1, 1).astype(np.float32)
        yield torch.from_numpy(lit), torch.from_numpy(crops.values[rows])


def _moved(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift one crop, (3, side, side) uint8, by a few random pixels, and mirror it half of the time.

    Pixels that the shift leaves free repeat the crop's edge.
    """
    down, right, mirrored = (*rng.integers(2 * _SHIFT_PX + 1, size=2), rng.random() < 0.5)
    side = pixels.shape[-1]
    wide = np.pad(pixels, ((0, 0), (_SHIFT_PX, _SHIFT_PX), (_SHIFT_PX, _SHIFT_PX)), mode="edge")
    seen = wide[:, down : down + side, right : right + side]
    return seen[..., ::-1] if mirrored else seen


def _main() -> None:
    defaults = Recipe()
    parser = argparse.ArgumentParser(prog="python -m demo.training.train_smolvlm", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument(
        "--cache", type=Path, default=Path("out/demo-crops"), help="folder for rendered crops"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, default=defaults.steps, help="updates of the weights")
    parser.add_argument("--threads", type=int, default=1, help="cores to compute on")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    train(Recipe(seed=given.seed, steps=given.steps), given.output, given.cache, given.threads)


if __name__ == "__main__":
    _main()
