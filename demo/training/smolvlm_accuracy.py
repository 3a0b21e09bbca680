"""Measure the accuracy of a model's guided answers.

This command asks a saved model about people of one store, through the job's annotator:

    python -m demo.training.smolvlm_accuracy --model demo/models/smolvlm --seed S --people N [--batch-size 16]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.attribute import AttributeValue
from actors.attributes import AttributeSchema
from actors.smolvlm.guided_decoding import GuidedDecoder
from actors.smolvlm.guided_engine import GuidedEngine
from actors.smolvlm.settings import resolve_smolvlm
from demo.training.demo_settings import demo_schema, demo_settings
from demo.training.smolvlm_crops import LabelledCrops, cut_people, normalise
from demo.training.smolvlm_sequences import PromptTokens

_BATCH = 50


def answer_accuracy(
    model: Any, tokens: PromptTokens, crops: LabelledCrops, schema: AttributeSchema
) -> dict[str, float]:
    """Measure the accuracy of a model in memory, through the job's own guided decoding.

    Args:
        model: Model whose text model uses the attention GROUPED_ATTENTION.
        tokens: Tokens of the prompt.
        crops: Crops with their truth.
        schema: The attributes.

    Returns:
        The result of `accuracy`.
    """
    model.eval()
    decoder = GuidedDecoder(model, tokens.grammar, tokens.prefix)
    found: list[dict[str, AttributeValue]] = []
    for start in range(0, len(crops.values), _BATCH):
        pixels = torch.from_numpy(normalise(crops.pixels[start : start + _BATCH]))
        found += [answer.values for answer in decoder.decode(tokens.tail, pixels[:, None])]
    model.train()
    return accuracy(found, crops.values, schema)


def saved_accuracy(folder: Path, seed: int, people: int, batch_size: int) -> dict[str, float]:
    """Measure the accuracy of a saved model on people of one store, with the job's annotator.

    The schema is that of the demo.

    Args:
        folder: Folder of the checkpoint.
        seed: Seed of the scenes.
        people: Number of people.
        batch_size: Number of crops per forward pass.

    Returns:
        The result of `accuracy`.

    Raises:
        WeightsError: The checkpoint does not exist.
    """
    schema = demo_schema()
    settings = demo_settings().smolvlm.model_copy(update={"model": str(folder), "batch_size": batch_size})
    annotator = GuidedEngine(settings, resolve_smolvlm(settings, schema), schema)
    cut = list(cut_people(seed, people, schema, jitter=True))
    answers = annotator.annotate([person.crop for person in cut])
    return accuracy([answer.values for answer in answers], np.array([p.values for p in cut]), schema)


def accuracy(
    answers: Sequence[Mapping[str, AttributeValue]], truth: np.ndarray, schema: AttributeSchema
) -> dict[str, float]:
    """Compute the share of correct answers for each attribute, and the mean absolute error for integers.

    Args:
        answers: One answer per person; a missing attribute counts as null.
        truth: (persons, attributes) int64, indices of the true values, which must not be null.
        schema: The attributes.

    Returns:
        For each attribute, the share of correct answers (0..1) if it is a category or a boolean. For an
        integer, the mean absolute error in the attribute's unit; a null counts as an error as large as
        the number of the attribute's values.
    """
    found = {}
    for attribute, column in zip(schema, truth.T, strict=True):
        pairs = [
            (answer.get(attribute.name), attribute.values[i])
            for answer, i in zip(answers, column, strict=True)
        ]
        if attribute.type == "integer":
            worst = len(attribute.values)
            errors = [
                abs(value - true) if isinstance(value, int) and isinstance(true, int) else worst
                for value, true in pairs
            ]
            found[attribute.name] = float(np.mean(errors))
        else:
            found[attribute.name] = float(np.mean([value == true for value, true in pairs]))
    return found


def describe(accuracies: Mapping[str, float]) -> str:
    """Format accuracies on one line."""
    return ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items())


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.training.smolvlm_accuracy", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, required=True, help="seed of the scenes")
    parser.add_argument("--people", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=16)
    given = parser.parse_args()
    print(describe(saved_accuracy(given.model, given.seed, given.people, given.batch_size)))  # noqa: T201


if __name__ == "__main__":
    _main()
