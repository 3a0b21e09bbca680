"""A buffer for the text model's keys and values that all batches reuse, and attention over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

GROUPED_ATTENTION = "shopframe_grouped"
"""Name of the attention implementation for the text model."""

KeysValues = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each layer, each of shape (rows, heads, columns, head width)."""


class KeyValueBuffer(Cache):  # type: ignore[misc]
    """A cache that is written in place after a prefix that is copied in once.

    A cache that grows by concatenation is copied completely at every pass. Here a pass writes only its own
    columns, dropping columns only moves `used` back, and the prefix is kept from batch to batch.

    Attributes:
        rows: Number of rows in the current batch; the buffer may hold more.
        used: Number of columns filled so far.
    """

    def __init__(self, prefix: KeysValues, rows: int, columns: int) -> None:
        """Allocate the buffer.

        Args:
            prefix: Keys and values of one row, with which all rows begin.
            rows: Maximum number of rows in a batch.
            columns: Maximum number of columns, including the prefix.
        """
        super().__init__(layers=[_BufferLayer(self, *kv, rows, columns) for kv in prefix])
        self.capacity = (rows, columns)
        self.dtype = prefix[0][0].dtype
        self.prefix_columns = prefix[0][0].shape[-2]
        self.begin(rows)

    def begin(self, rows: int) -> None:
        """Drop everything but the prefix and begin a batch with the given number of rows."""
        self.rows = rows
        self.used = self.prefix_columns

    def stay(self) -> None:
        """Tell torch.compile that this memory stays where it is, so that CUDA graphs may write to it."""
        for layer in self.layers:
            torch._dynamo.mark_static_address(layer.keys)
            torch._dynamo.mark_static_address(layer.values)

    def fits(self, rows: int, columns: int) -> bool:
        """Return whether a batch with the given numbers of rows and columns fits into the buffer."""
        return rows <= self.capacity[0] and columns <= self.capacity[1]


class _BufferLayer(CacheLayerMixin):  # type: ignore[misc]
    is_sliding = False

    def __init__(self, owner: KeyValueBuffer, keys: Tensor, values: Tensor, rows: int, columns: int) -> None:
        super().__init__()
        self._owner = owner
        self.keys: Tensor = _with_prefix(keys, rows, columns)
        self.values: Tensor = _with_prefix(values, rows, columns)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write this pass's columns and return all columns filled so far."""
        rows, start = self._owner.rows, self._owner.used
        stop = start + key_states.shape[-2]
        self.keys[:rows, :, start:stop] = key_states
        self.values[:rows, :, start:stop] = value_states
        return self.keys[:rows, :, :stop], self.values[:rows, :, :stop]

    def get_seq_length(self) -> int:
        """Return the number of columns filled so far."""
        return self._owner.used

    def get_max_length(self) -> int:
        """Return the number of columns allocated."""
        return int(self.keys.shape[-2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length and offset of the keys that a query sees."""
        return self._owner.used + query_length, 0


def _with_prefix(prefix: Tensor, rows: int, columns: int) -> Tensor:
    _, heads, width, size = prefix.shape
    buffer = torch.empty(rows, heads, columns, size, dtype=prefix.dtype, device=prefix.device)
    buffer[:, :, :width] = prefix
    return buffer


def grouped_attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention by stacking the query heads that share a key head.

    With a mask, the attention of transformers instead copies all keys and values once for every query head,
    at every layer and pass. With short passes over a long prompt, this costs more than the attention itself.

    Args:
        query: (rows, query heads, queries, width).
        key: (rows, key heads, columns, width).
        value: (rows, key heads, columns, width).
        attention_mask: (rows, 1, queries, columns), bool or additive.
        scaling: Factor for the products of queries and keys; 1/sqrt(width) by default.

    Returns:
        The output, (rows, queries, query heads, width), and None instead of the attention weights.
    """
    rows, heads, queries, width = query.shape
    groups = key.shape[1]
    stacked = query.reshape(rows, groups, heads // groups * queries, width)
    mask = attention_mask.repeat(1, 1, heads // groups, 1)
    attended = scaled_dot_product_attention(stacked, key, value, attn_mask=mask, scale=scaling)
    return attended.reshape(rows, heads, queries, width).transpose(1, 2), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
