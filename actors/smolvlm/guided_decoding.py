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
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from actors.attribute import AttributeValue
from actors.records import Distribution
from actors.smolvlm.answer_grammar import AnswerGrammar, Slot
from actors.smolvlm.key_values import KeyValueBuffer
from actors.smolvlm.output_head import OutputHead
from actors.smolvlm.reasoning import ReasoningWriter

INTEGERS_KEPT = 8
"""Number of values of an integer whose probabilities are kept."""

Vision = Callable[[Tensor], Sequence[Tensor]]
"""Turns pictures (rows, tiles, 3, height, width) into the features of each row, (tokens, width)."""

_DIGITS = 6
"""Digits to which probabilities in a distribution are rounded."""


@dataclass(frozen=True, slots=True)
class GuidedAnswer:
    """A valid answer.

    Attributes:
        values: Value by attribute name.
        distribution: Values with their probabilities by attribute name, the likeliest first: all values of a
            category or boolean, and the INTEGERS_KEPT likeliest ones of an integer.
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
    ) -> None:
        """Prepare the slots and run the shared prefix once.

        Args:
            model: SmolVLMForConditionalGeneration or Idefics3ForConditionalGeneration, in eval mode, with the
                attention implementation GROUPED_ATTENTION in its text model.
            grammar: The slots of the answer.
            prefix: Token ids with which every prompt begins, before its image.
            reasoning: Writer of the reasoning; None for answers without one.
        """
        self._tower = model.model.get_image_features
        self.vision: Vision = self._own_vision
        self._text = model.model.text_model
        self._embed = model.get_input_embeddings()
        self._image_token = model.config.image_token_id
        self._device = model.device
        self._head = OutputHead(model.lm_head.weight)
        self._slots = [_SlotTensors.of(slot, self._device) for slot in grammar.slots]
        self._constraints: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        for found in grammar.constraints:
            table = torch.tensor(found.allowed, device=self._device)
            self._constraints[found.later].append((found.earlier, table))
        self._reasoning = reasoning
        self._reasoning_forced = torch.tensor(grammar.reasoning, device=self._device)
        self._prefix = self._run_prefix(torch.tensor([prefix], device=self._device))
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
        batch = self._begin(len(pixel_values), len(tail))
        lead = self._embed_tail(torch.tensor(tail, device=self._device), pixel_values)
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
        texts: list[str | None] = [None] * len(pixel_values)
        if self._reasoning is not None:
            batch.append_value(self._slots[-1], chosen[-1])
            texts = list(self._write_reasoning(batch, self._reasoning))
        # Without reasoning, the host waits for the device only here: nothing above reads a value.
        listed = [(shares.tolist(), order.tolist()) for shares, order in likeliest]
        return [
            self._answer([(shares[row], order[row]) for shares, order in listed], text)
            for row, text in enumerate(texts)
        ]

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

    def _own_vision(self, pixel_values: Tensor) -> Sequence[Tensor]:
        seen = self._tower(pixel_values.to(self._device, self._embed.weight.dtype))
        return cast("Sequence[Tensor]", seen.pooler_output)

    def _embed_tail(self, ids: Tensor, pixel_values: Tensor) -> Tensor:
        features = self.vision(pixel_values)
        embedded: Tensor = self._embed(ids).expand(len(features), -1, -1).clone()
        embedded[:, ids == self._image_token] = torch.stack(list(features)).to(embedded.dtype)
        return embedded

    def _run_slot(self, batch: _Batch, lead: Tensor, slot: _SlotTensors) -> Tensor:
        """Run one pass; return the states after the forced text and each node, (rows, 1 + nodes, width)."""
        rows = len(lead)
        embedded = torch.cat([lead, self._embed(slot.ids).expand(rows, -1, -1)], dim=1)
        nodes = len(slot.node_depths)
        positions, mask = batch.layout(embedded.shape[1] - nodes, slot.node_depths, slot.node_mask)
        hidden: Tensor = self._text(
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


@dataclass(frozen=True, slots=True)
class _SlotTensors:
    """The tensors of a slot on the device.

    Attributes:
        name: Name of the attribute.
        values: Allowed values of the attribute.
        ids: (forced + nodes,) int64, token ids of the forced text and of the inner nodes.
        node_depths: (nodes,) int64, positions after the last forced token, from 1.
        node_mask: (nodes, nodes) bool, True if the column's node is the row's node or one of its ancestors.
        edge_nodes: (edges,) int64, index of the state that predicts the edge: 0 is the state after the forced
            text, the states of the nodes follow.
        edge_tokens: (edges,) int64, the token of each edge.
        routes: (values, edges) float32, 1 if the value takes the edge.
        paths: (values, depth) int64, tokens of each value, padded on the left with 0.
        path_valid: (values, depth) bool, False where `paths` is padded.
        columns: Maximum number of columns that a pass for this slot writes.
        kept: Number of values whose probabilities are kept.
    """

    name: str
    values: tuple[AttributeValue, ...]
    ids: Tensor
    node_depths: Tensor
    node_mask: Tensor
    edge_nodes: Tensor
    edge_tokens: Tensor
    routes: Tensor
    paths: Tensor
    path_valid: Tensor
    columns: int
    kept: int

    @classmethod
    def of(cls, slot: Slot, device: torch.device) -> _SlotTensors:
        nodes = len(slot.nodes)
        depths = torch.zeros(nodes, dtype=torch.long)
        mask = torch.eye(nodes, dtype=torch.bool)
        for index, (parent, _) in enumerate(slot.nodes):
            depths[index] = 1 if parent < 0 else depths[parent] + 1
            if parent >= 0:
                mask[index] |= mask[parent]
        routes = torch.zeros(len(slot.values), len(slot.edges))
        paths = torch.zeros(len(slot.values), slot.depth, dtype=torch.long)
        valid = torch.zeros(len(slot.values), slot.depth, dtype=torch.bool)
        for index, (route, path) in enumerate(zip(slot.routes, slot.paths, strict=True)):
            routes[index, list(route)] = 1
            paths[index, slot.depth - len(path) :] = torch.tensor(path)
            valid[index, slot.depth - len(path) :] = True
        return cls(
            name=slot.name,
            values=slot.values,
            ids=torch.tensor([*slot.forced, *(token for _, token in slot.nodes)], device=device),
            node_depths=depths.to(device),
            node_mask=mask.to(device),
            edge_nodes=torch.tensor([node + 1 for node, _ in slot.edges], device=device),
            edge_tokens=torch.tensor([token for _, token in slot.edges], device=device),
            routes=routes.to(device),
            paths=paths.to(device),
            path_valid=valid.to(device),
            columns=len(slot.forced) + nodes + slot.depth,
            kept=INTEGERS_KEPT if slot.is_integer else len(slot.values),
        )

    def probabilities(self, hidden: Tensor, head: OutputHead, allowed: Tensor | None = None) -> Tensor:
        """Return the probability of each value among those that are allowed.

        Args:
            hidden: States after the forced text and each node, (rows, 1 + nodes, width).
            head: The model's head.
            allowed: The values that the rules leave, (rows, values) bool; None leaves all.

        Returns:
            (rows, values) float32; 0 for values that aren't allowed.
        """
        scores = self._scores(hidden, head)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, float("-inf"))
        return torch.softmax(scores, dim=1)

    def _scores(self, hidden: Tensor, head: OutputHead) -> Tensor:
        """Return the logarithm of each value's probability, but for a term that all have in common."""
        if len(self.node_depths) == 0:
            # A single token decides, so the sum over the vocabulary cancels out and only edges are needed.
            return head.logits(hidden[:, 0], self.edge_tokens) @ self.routes.T
        # The states are flattened because a product over three dimensions uses a slow batched kernel.
        logits = head.logits(hidden.flatten(0, 1)).view(*hidden.shape[:2], -1)
        edges = logits[:, self.edge_nodes, self.edge_tokens] - logits.logsumexp(-1)[:, self.edge_nodes]
        return edges @ self.routes.T


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

    def append_value(self, slot: _SlotTensors, chosen: Tensor) -> None:
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
            node_mask: Which node sees which other nodes, as in `_SlotTensors`.

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
