"""The text model's keys and values in one buffer that every batch uses again, and attention over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

GROUPED_ATTENTION = "shopframe_grouped"
"""Attention implementation to load the text model with."""

KeysValues = Sequence[tuple[Tensor, Tensor]]
"""For each layer keys and values, (rows, heads, columns, head width) each."""


class KeyValueBuffer(Cache):
    """A cache written in place, behind a prefix that is copied in once.

    Growing a cache by concatenation copies all of it at every pass; here a pass writes only its own
    columns, dropping columns is moving `used` back, and the prefix survives from batch to batch.

    Attributes:
        rows: Rows of the batch at hand; the buffer may hold more.
        used: Columns filled so far.
    """

    def __init__(self, prefix: KeysValues, rows: int, columns: int) -> None:
        """Allocate.

        Args:
            prefix: Keys and values with one row that all rows begin with.
            rows: Most rows of a batch.
            columns: Most columns, the prefix included.
        """
        super().__init__(layers=[_BufferLayer(self, *kv, rows, columns) for kv in prefix])
        self.capacity = (rows, columns)
        self.dtype = prefix[0][0].dtype
        self.prefix_columns = prefix[0][0].shape[-2]
        self.begin(rows)

    def begin(self, rows: int) -> None:
        """Forget all but the prefix, for a batch of so many rows."""
        self.rows = rows
        self.used = self.prefix_columns

    def fits(self, rows: int, columns: int) -> bool:
        """Whether a batch of so many rows and columns has room."""
        return rows <= self.capacity[0] and columns <= self.capacity[1]


class _BufferLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    is_sliding = False

    def __init__(self, owner: KeyValueBuffer, keys: Tensor, values: Tensor, rows: int, columns: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner
        self.keys: Tensor = _with_prefix(keys, rows, columns)
        self.values: Tensor = _with_prefix(values, rows, columns)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write this pass's columns and return all of them so far."""
        rows, start = self._owner.rows, self._owner.used
        stop = start + key_states.shape[-2]
        self.keys[:rows, :, start:stop] = key_states
        self.values[:rows, :, start:stop] = value_states
        return self.keys[:rows, :, :stop], self.values[:rows, :, :stop]

    def get_seq_length(self) -> int:
        """Columns filled so far."""
        return self._owner.used

    def get_max_length(self) -> int:
        """Columns allocated."""
        return int(self.keys.shape[-2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a query sees."""
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
    """Attention in which query heads that share a key head are stacked, not the key heads repeated.

    With a mask, the library's own attention copies all keys and values once for every query head at
    every layer and pass, which with short passes over a long prompt costs more than the attention.

    Args:
        query: (rows, query heads, queries, width).
        key: (rows, key heads, columns, width).
        value: As `key`.
        attention_mask: (rows, 1, queries, columns), bool or additive.
        scaling: Of the products; 1/sqrt(width) by default.

    Returns:
        (rows, queries, query heads, width), and no weights.
    """
    rows, heads, queries, width = query.shape
    groups = key.shape[1]
    stacked = query.reshape(rows, groups, heads // groups * queries, width)
    mask = attention_mask.repeat(1, 1, heads // groups, 1)
    attended = scaled_dot_product_attention(stacked, key, value, attn_mask=mask, scale=scaling)
    return attended.reshape(rows, heads, queries, width).transpose(1, 2), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
