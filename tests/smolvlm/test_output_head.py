"""Logits are those of a product in float32, whatever the precision of the model."""

import pytest
import torch

from actors.smolvlm.output_head import OutputHead


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [None, [3, 1, 1]])
def test_logits_are_not_rounded_to_the_models_precision(dtype, tokens):
    torch.manual_seed(0)
    weight, states = torch.randn(50, 64).to(dtype), torch.randn(5, 64).to(dtype)
    head = OutputHead(weight)
    chosen = None if tokens is None else torch.tensor(tokens)
    logits = head.logits(states, chosen)
    wanted = weight if tokens is None else weight[chosen]
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, (states.double() @ wanted.double().T).float(), rtol=1e-5, atol=1e-4)
