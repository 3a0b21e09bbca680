"""What guided decoding needs of a slot of the answer, as tensors on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from actors.attribute import AttributeValue
from actors.smolvlm.answer_grammar import Slot
from actors.smolvlm.output_head import OutputHead

INTEGERS_KEPT = 8
"""Number of values of an integer whose probabilities are kept."""


@dataclass(frozen=True, slots=True)
class SlotTensors:
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
    def of(cls, slot: Slot, device: torch.device) -> SlotTensors:
        """Put a slot on a device."""
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
