"""The forward pass for training: the shared prompt is run once, then images and true answers follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True, slots=True)
class Predictions:
    """Result of a forward pass.

    Attributes:
        logits: (rows, answer tokens, vocabulary), the prediction for the token at each position.
        summary: (rows, width), the mean of the image tokens.
    """

    logits: Tensor
    summary: Tensor


def predict_answers(
    model: Any, prefix: Sequence[int], tail: Sequence[int], answers: Tensor, pixels: Tensor
) -> Predictions:
    """Predict every token of the true answers from the tokens before it.

    The prefix is run with one row, as in guided decoding, and all rows share its keys and values.

    Args:
        model: SmolVLMForConditionalGeneration whose text model uses the attention GROUPED_ATTENTION.
        prefix: Token ids before the image.
        tail: Token ids from the image to the beginning of the answer.
        answers: (rows, answer tokens) int64.
        pixels: (rows, 3, side, side) float32, normalised.
    """
    text, embed = model.model.text_model, model.get_input_embeddings()
    rows, start, columns = len(pixels), len(prefix), len(tail) + answers.shape[1]
    causal = _causal(start + columns, model.dtype)
    shared = text(
        input_ids=torch.tensor([prefix]), attention_mask=causal[:, :, :start, :start], use_cache=True
    ).past_key_values
    cache = DynamicCache()
    for index, layer in enumerate(shared.layers):
        shape = (rows, -1, -1, -1)
        cache.update(layer.keys.expand(shape), layer.values.expand(shape), index)
    features = torch.stack(list(model.model.get_image_features(pixels[:, None]).pooler_output))
    ids = torch.cat([torch.tensor([tail]).expand(rows, -1), answers], dim=1)
    embedded = embed(ids)
    shown = ids == model.config.image_token_id
    embedded = embedded.masked_scatter(shown[..., None], features.to(embedded.dtype))
    hidden = text(
        inputs_embeds=embedded,
        attention_mask=causal[:, :, start:],
        position_ids=torch.arange(start, start + columns)[None],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return Predictions(model.lm_head(hidden[:, len(tail) - 1 : -1]), features.float().mean(1))


def _causal(columns: int, dtype: torch.dtype) -> Tensor:
    blocked = torch.full((columns, columns), float("-inf"), dtype=dtype)
    return blocked.triu(1)[None, None]
