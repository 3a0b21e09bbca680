"""How right a model's guided answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from actors.attributes import AttributeSchema, AttributeValue
from actors.guided_decoding import GuidedDecoder
from demo.smolvlm_crops import LabelledCrops, normalise
from demo.smolvlm_sequences import PromptTokens

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


def accuracy(
    answers: Sequence[Mapping[str, AttributeValue]], truth: np.ndarray, schema: AttributeSchema
) -> dict[str, float]:
    """Share of right answers by attribute; of integers the mean absolute error instead.

    Args:
        answers: One a person.
        truth: (persons, attributes) int64, indices of the true values, none of them null.
        schema: The attributes.

    Returns:
        By attribute: 0..1 for categories and booleans, in the attribute's unit for integers, where null
        counts as wrong by the attribute's whole range.
    """
    found = {}
    for attribute, column in zip(schema, truth.T, strict=True):
        pairs = [
            (answer[attribute.name], attribute.values[i]) for answer, i in zip(answers, column, strict=True)
        ]
        if attribute.type == "integer":
            numbers = [value for value in attribute.values if value is not None]
            worst = max(numbers) - min(numbers)
            errors = [worst if value is None else abs(value - true) for value, true in pairs]
            found[attribute.name] = float(np.mean(errors))
        else:
            found[attribute.name] = float(np.mean([value == true for value, true in pairs]))
    return found


def describe(accuracies: Mapping[str, float]) -> str:
    """On one line."""
    return ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items())
