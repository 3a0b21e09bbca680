"""Schema-guided decoding in batches, with one forward pass for each slot of the answer.

A pass processes, for all rows together, the value chosen in the previous slot, the forced text up to the
next slot, and the inner nodes of that slot's trie:

    columns  | prefix (shared) | image, question, forced | value, forced | value, forced | ...
    queries                                                [pad value | forced | trie nodes]

Values differ in length, so they are padded on the left to the slot's longest value. Padding is masked and
takes no position. All shapes therefore depend only on the schema and the number of rows, not on the answers
of other rows in the batch. Trie nodes see the text and their own ancestors, and are dropped after the pass.
An answer is assembled from the schema's own values, so it can't be invalid.

The confidence of a value v is exact: P(v) = p(tokens of v) / sum over allowed w of p(tokens of w), where p
is the model's probability of the sequence of tokens, given the prompt, the image and the preceding answers.
A value that breaks a rule of the schema, given the preceding answers, is not allowed.
If a value is the beginning of another one ("1" and "12"), the token that follows the value is included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from actors.attribute import AttributeValue
from actors.records import Distribution
from actors.smolvlm.answer_grammar import AnswerGrammar
from actors.smolvlm.key_values import KeyValueBuffer
from actors.smolvlm.output_head import OutputHead
from actors.smolvlm.reasoning import ReasoningWriter
from actors.smolvlm.slot_tensors import SlotTensors

Vision = Callable[[Tensor], Tensor]
"""Turns pictures (rows, tiles, 3, height, width) into the features of each row, (rows, tokens, width)."""

_DIGITS = 6
"""Digits to which probabilities in a distribution are rounded."""


@dataclass(frozen=True, slots=True)
class GuidedAnswer:
    """A valid answer.

    Attributes:
        values: Value by attribute name.
        distribution: Values with their probabilities by attribute name, the likeliest first: all values of a
            category or boolean, and the likeliest ones of an integer.
        confidence: Probability (0..1) of the value by attribute name.
        reasoning: The explanation, if enabled.
    """

    values: dict[str, AttributeValue]
    distribution: dict[str, Distribution]
    confidence: dict[str, float]
    reasoning: str | None = None


class GuidedDecoder:
    """Fills in the schema's attributes for images with one SmolVLM.

    The decoder isn't thread-safe, because all batches reuse the key-value buffer.

    Attributes:
        vision: What turns pictures into features: at first, the model's own vision tower.
    """

    def __init__(
        self,
        model: Any,
        grammar: AnswerGrammar,
        prefix: Sequence[int],
        reasoning: ReasoningWriter | None = None,
        is_compiled: bool = False,
    ) -> None:
        """Prepare the slots and run the shared prefix once.

        Args:
            model: SmolVLMForConditionalGeneration or Idefics3ForConditionalGeneration, in eval mode, with the
                attention implementation GROUPED_ATTENTION in its text model.
            grammar: The slots of the answer.
            prefix: Token ids with which every prompt begins, before its image.
            reasoning: Writer of the reasoning; None for answers without one.
            is_compiled: Whether passes are compiled. Batches should then have the same number of rows.
        """
        self._tower, self._connector = model.model.vision_model, model.model.connector
        self.vision: Vision = self._own_vision
        self._text = model.model.text_model
        self._embed = model.get_input_embeddings()
        self._image_token = model.config.image_token_id
        self._device = model.device
        self._head = OutputHead(model.lm_head.weight)
        self._slots = [SlotTensors.of(slot, self._device) for slot in grammar.slots]
        self._constraints: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        for found in grammar.constraints:
            table = torch.tensor(found.allowed, device=self._device)
            self._constraints[found.later].append((found.earlier, table))
        self._reasoning = reasoning
        self._reasoning_forced = torch.tensor(grammar.reasoning, device=self._device)
        self._prefix = self._run_prefix(torch.tensor([prefix], device=self._device))
        self._is_compiled = is_compiled
        self._pass = self._text if not is_compiled else _compiled(self._text, len(grammar.slots))
        self._buffer: KeyValueBuffer | None = None

    @torch.inference_mode()
    def decode(self, tail: Sequence[int], pixel_values: Tensor) -> list[GuidedAnswer]:
        """Answer a batch.

        Args:
            tail: Token ids from the image to the beginning of the answer, the same for every row.
            pixel_values: (rows, tiles, 3, height, width) float32, normalised as the model's processor does.

        Returns:
            One answer per row.

        Raises:
            torch.OutOfMemoryError: The batch is too large; call `release` and try a smaller one.
        """
        likeliest, texts = self._decode(tail, pixel_values)
        # Without reasoning, the host waits for the device only here.
        listed = [(shares.tolist(), order.tolist()) for shares, order in likeliest]
        return [
            self._answer([(shares[row], order[row]) for shares, order in listed], text)
            for row, text in enumerate(texts)
        ]

    def _decode(
        self, tail: Sequence[int], pixel_values: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor]], Sequence[str | None]]:
        """Return the likeliest values of each slot with their probabilities, and the reasonings.

        Without reasonings, nothing may wait for the device once it looks at the pictures: meanwhile the
        passes are queued, as many as its driver keeps.
        """
        batch = self._begin(len(pixel_values), len(tail))
        lead = self._embed_tail(tail, pixel_values)
        chosen: list[Tensor] = []
        likeliest: list[tuple[Tensor, Tensor]] = []
        for index, slot in enumerate(self._slots):
            if index:
                batch.append_value(self._slots[index - 1], chosen[-1])
                lead = self._embed(batch.value_ids)
            hidden = self._run_slot(batch, lead, slot)
            allowed = self._allowed(index, chosen)
            probabilities = slot.probabilities(hidden, self._head, allowed)
            # A stable order gives the first of equally likely values, as argmax does.
            shares, order = probabilities.sort(dim=1, descending=True, stable=True)
            chosen.append(order[:, 0])
            likeliest.append((shares[:, : slot.kept], order[:, : slot.kept]))
        if self._reasoning is None:
            return likeliest, [None] * len(pixel_values)
        batch.append_value(self._slots[-1], chosen[-1])
        return likeliest, self._write_reasoning(batch, self._reasoning)

    def release(self) -> None:
        """Free the memory of the key-value buffer."""
        self._buffer = None

    def _begin(self, rows: int, tail: int) -> _Batch:
        columns = self._prefix[0][0].shape[-2] + tail + sum(slot.columns for slot in self._slots)
        if self._reasoning is not None:
            columns += (
                len(self._reasoning_forced) + self._slots[-1].paths.shape[1] + self._reasoning.max_tokens
            )
        if self._buffer is None or not self._buffer.fits(rows, columns):
            self._buffer = None
            self._buffer = KeyValueBuffer(self._prefix, rows, columns)
            if self._is_compiled:
                self._buffer.stay()
        if self._is_compiled:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        self._buffer.begin(rows)
        return _Batch(self._buffer, rows, self._device)

    def _run_prefix(self, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
        columns = ids.shape[1]
        causal = torch.ones(1, 1, columns, columns, dtype=torch.bool, device=self._device).tril()
        with torch.inference_mode():
            cache = self._text(input_ids=ids, attention_mask=causal, use_cache=True).past_key_values
            return [(layer.keys, layer.values) for layer in cache.layers]

    def _allowed(self, index: int, chosen: Sequence[Tensor]) -> Tensor | None:
        """Return which values of a slot obey the rules, given the earlier values; None if no rule applies.

        Args:
            index: Index of the slot.
            chosen: Indices of the values of earlier slots, each (rows,) int64.

        Returns:
            (rows, values) bool. A row in which the rules leave no value has all of them.
        """
        if index not in self._constraints:
            return None
        tables = [table[chosen[earlier]] for earlier, table in self._constraints[index]]
        allowed = torch.stack(tables).all(dim=0)
        return allowed | ~allowed.any(dim=1, keepdim=True)

    def _own_vision(self, pixel_values: Tensor) -> Tensor:
        # `get_image_features` of the model looks for padding, of which there is none here, and waits for the
        # device before it returns.
        tiles = pixel_values.to(self._device, self._embed.weight.dtype).flatten(0, 1)
        features: Tensor = self._connector(self._tower(pixel_values=tiles).last_hidden_state)
        return features.reshape(len(pixel_values), -1, features.shape[-1])

    def _embed_tail(self, tail: Sequence[int], pixel_values: Tensor) -> Tensor:
        ids = torch.tensor(tail, device=self._device)
        # A mask of the image's tokens would be counted on the device, and the host would wait for that.
        columns = [column for column, token in enumerate(tail) if token == self._image_token]
        places = torch.tensor(columns, device=self._device)
        features = self.vision(pixel_values)
        embedded: Tensor = self._embed(ids).expand(len(features), -1, -1).clone()
        embedded[:, places] = features.to(embedded.device, embedded.dtype)
        return embedded

    def _run_slot(self, batch: _Batch, lead: Tensor, slot: SlotTensors) -> Tensor:
        """Run one pass; return the states after the forced text and each node, (rows, 1 + nodes, width)."""
        rows = len(lead)
        embedded = torch.cat([lead, self._embed(slot.ids).expand(rows, -1, -1)], dim=1)
        nodes = len(slot.node_depths)
        positions, mask = batch.layout(embedded.shape[1] - nodes, slot.node_depths, slot.node_mask)
        hidden: Tensor = self._pass(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=batch.buffer,
            use_cache=True,
        ).last_hidden_state
        batch.keep(embedded.shape[1] - nodes)
        return hidden[:, -1 - nodes :]

    def _write_reasoning(self, batch: _Batch, writer: ReasoningWriter) -> list[str]:
        """Write the reasonings, one token per pass; rows that have ended continue with masked padding."""
        rows = batch.rows
        ids = torch.cat([batch.value_ids, self._reasoning_forced.expand(rows, -1)], dim=1)
        texts = writer.begin(rows)
        for _ in range(writer.max_tokens):
            positions, mask = batch.layout(ids.shape[1])
            hidden = self._text(
                inputs_embeds=self._embed(ids),
                attention_mask=mask,
                position_ids=positions,
                past_key_values=batch.buffer,
                use_cache=True,
            ).last_hidden_state
            batch.keep(ids.shape[1])
            ids, running = texts.next_tokens(self._head.logits(hidden[:, -1]))
            if not running.any():
                break
            batch.append_tokens(running)
        return texts.finish()

    def _answer(
        self, likeliest: Sequence[tuple[Sequence[float], Sequence[int]]], reasoning: str | None
    ) -> GuidedAnswer:
        distribution = {
            slot.name: tuple(
                (slot.values[i], round(share, _DIGITS)) for share, i in zip(shares, order, strict=True)
            )
            for slot, (shares, order) in zip(self._slots, likeliest, strict=True)
        }
        values = {name: shares[0][0] for name, shares in distribution.items()}
        confidence = {slot.name: shares[0] for slot, (shares, _) in zip(self._slots, likeliest, strict=True)}
        return GuidedAnswer(values, distribution, confidence, reasoning)


def _compiled(text: Any, passes: int) -> Any:
    """Return a text model of which torch.compile makes a program for each pass, with fixed shapes."""
    from torch._dynamo import config

    # Each pass has shapes of its own, for a batch of one size. More sizes come when memory runs out.
    config.recompile_limit = max(config.recompile_limit, 8 * passes)
    mode = "reduce-overhead" if text.device.type == "cuda" else None
    return torch.compile(text, dynamic=False, mode=mode)


class _Batch:
    """The state of a batch: which columns of the buffer are valid for each row, and how long each row is."""

    def __init__(self, buffer: KeyValueBuffer, rows: int, device: torch.device) -> None:
        self.buffer = buffer
        self.rows = rows
        self.value_ids = torch.zeros(rows, 0, dtype=torch.long, device=device)
        self._device = device
        self._dtype = buffer.dtype
        self._valid = torch.ones(rows, buffer.capacity[1], dtype=torch.bool, device=device)
        self._length = torch.full((rows,), buffer.used, device=device)
        self._padded = torch.ones(rows, 0, dtype=torch.bool, device=device)

    def append_value(self, slot: SlotTensors, chosen: Tensor) -> None:
        """Begin the next pass with the values chosen in a slot, (rows,) int64 indices."""
        self.value_ids = slot.paths[chosen]
        self._padded = slot.path_valid[chosen]

    def append_tokens(self, running: Tensor) -> None:
        """Begin the next pass with one token per row; it is padding where `running` (rows,) is False."""
        self._padded = running[:, None]

    def layout(
        self, columns: int, node_depths: Tensor | None = None, node_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the positions and the additive mask of the next pass.

        Args:
            columns: Number of tokens in sequence, the padded value first.
            node_depths: Depths of the trie nodes that follow the tokens.
            node_mask: Which node sees which other nodes, as in `SlotTensors`.

        Returns:
            Positions (rows, queries) and mask (rows, 1, queries, columns).
        """
        used, device = self.buffer.used, self._device
        valid = torch.ones(self.rows, columns, dtype=torch.bool, device=device)
        valid[:, : self._padded.shape[1]] = self._padded
        self._valid[:, used : used + columns] = valid
        counted = self._length[:, None] + valid.cumsum(1)
        positions = (counted - 1).clamp(min=0)
        causal = torch.ones(columns, columns, dtype=torch.bool, device=device).tril()
        past = self._valid[:, None, :used].expand(-1, columns, -1)
        mask = torch.cat([past, causal & valid[:, None]], dim=2)
        self._length = counted[:, -1]
        if node_depths is not None and node_mask is not None and len(node_depths):
            nodes = len(node_depths)
            positions = torch.cat([positions, self._length[:, None] + node_depths - 1], dim=1)
            seen = self._valid[:, None, : used + columns].expand(-1, nodes, -1)
            below = torch.cat([seen, node_mask.expand(self.rows, -1, -1)], dim=2)
            mask = torch.cat([pad(mask, (0, nodes)), below], dim=1)
        return positions, self._additive(mask)

    def _additive(self, mask: Tensor) -> Tensor:
        # A bool mask would be converted to this form again in every layer.
        blocked = torch.zeros(mask.shape, dtype=self._dtype, device=mask.device)
        return blocked.masked_fill_(~mask, float("-inf"))[:, None]

    def keep(self, columns: int) -> None:
        """Keep the given number of columns of the last pass; the next pass overwrites the others."""
        self.buffer.used += columns
