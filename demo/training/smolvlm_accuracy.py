"""How right a model's guided answers are.

    python -m demo.training.smolvlm_accuracy --model demo/models/smolvlm --seed S --people N [--batch-size 16]

asks a saved model about people of one store, through the job's annotator.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.attributes import AttributeSchema, AttributeValue, SchemaSettings
from actors.smolvlm.crop_annotator import CropAnnotator
from actors.smolvlm.guided_decoding import GuidedDecoder
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from demo.training.smolvlm_crops import LabelledCrops, cut_people, normalise
from demo.training.smolvlm_sequences import PromptTokens

_BATCH = 50


def answer_accuracy(
    model: Any, tokens: PromptTokens, crops: LabelledCrops, schema: AttributeSchema
) -> dict[str, float]:
    """Ask a model in memory about crops, through the job's own guided decoding.

    Args:
        model: Its text model has attention GROUPED_ATTENTION.
        tokens: The prompt.
        crops: With their truth.
        schema: The attributes.

    Returns:
        As `accuracy`.
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
    """Ask a saved model about people of one store as the job does, in the default schema.

    Args:
        folder: Of the checkpoint.
        seed: Of the scenes.
        people: How many.
        batch_size: Crops a forward pass.

    Returns:
        As `accuracy`.

    Raises:
        WeightsError: There is no such checkpoint.
    """
    schema = AttributeSchema(SchemaSettings())
    settings = SmolVLMSettings.model_validate({"model": str(folder), "batch_size": batch_size})
    annotator = CropAnnotator(settings, resolve_smolvlm(settings, schema), schema)
    cut = list(cut_people(seed, people, schema, jitter=True))
    answers = annotator.annotate([person.crop for person in cut])
    return accuracy([answer.values for answer in answers], np.array([p.values for p in cut]), schema)


def accuracy(
    answers: Sequence[Mapping[str, AttributeValue]], truth: np.ndarray, schema: AttributeSchema
) -> dict[str, float]:
    """Share of right answers by attribute; of integers the mean absolute error instead.

    Args:
        answers: One a person; what one lacks counts as null.
        truth: (persons, attributes) int64, indices of the true values, none of them null.
        schema: The attributes.

    Returns:
        By attribute: 0..1 for categories and booleans, in the attribute's unit for integers, where null
        counts as wrong by as much as there are values.
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
    """On one line."""
    return ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items())


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.training.smolvlm_accuracy", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, required=True, help="of the scenes")
    parser.add_argument("--people", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=16)
    given = parser.parse_args()
    print(describe(saved_accuracy(given.model, given.seed, given.people, given.batch_size)))  # noqa: T201


if __name__ == "__main__":
    _main()
