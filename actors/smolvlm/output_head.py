"""A language model's head: from states to logits in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear


class OutputHead:
    """Computes logits in float32, also of a model in a smaller precision.

    In bfloat16, logits of the relevant size are multiples of 1/8, too coarse for probabilities. Where the
    device multiplies the smaller precision into float32 (CUDA), the model's own weights are used. Elsewhere,
    the head keeps a copy of them in float32.
    """

    def __init__(self, weight: Tensor) -> None:
        """Take the weights of the head, (vocabulary, width)."""
        weight = weight.detach()
        self._weight = weight if _widens(weight) else weight.float()

    def logits(self, states: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return the logits of states.

        Args:
            states: (rows, width), in the precision of the model.
            tokens: (tokens,) int64, the tokens whose logits are wanted; None for the whole vocabulary.

        Returns:
            (rows, tokens) float32.
        """
        weight = self._weight if tokens is None else self._weight[tokens]
        if weight.dtype == torch.float32:
            return linear(states.float(), weight)
        widened: Tensor = torch.mm(states.to(weight.dtype), weight.T, out_dtype=torch.float32)
        return widened


def _widens(weight: Tensor) -> bool:
    """Return whether the device multiplies the weight's precision into float32."""
    if weight.dtype == torch.float32:
        return False
    try:
        torch.mm(weight[:1], weight[:1].T, out_dtype=torch.float32)
    except (RuntimeError, TypeError):
        return False
    return True
