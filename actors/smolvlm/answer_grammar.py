"""The answer as fixed text with slots, and each slot's allowed values as a tree of tokens.

An answer is JSON in which only the values are open: `{"gender": ` slot `, "age_group": ` slot ... `}}`.
The text between two slots is forced, and each slot takes one of a few token paths. The paths of a slot form
a trie, so one forward pass over its inner nodes gives the exact probability of every value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from actors.attribute import Attribute, AttributeValue
from actors.attributes import NESTED_KEY, AttributeSchema

Tokenize = Callable[[str], list[int]]
"""Maps text to token ids, without adding special tokens."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one value in the answer.

    Attributes:
        name: Name of the attribute.
        values: Allowed values of the attribute.
        is_integer: Whether the attribute is an integer.
        forced: Token ids between the previous value (or the prompt) and this one.
        paths: Token ids of each value.
        nodes: Inner nodes of the trie of paths, parents first: (index of the parent node or -1 for the
            root, token id). The model runs these tokens in addition to the forced ones, but not the leaves.
        edges: Every (node or -1, next token id) that some value takes.
        routes: For each value, indices into `edges`; the product of these edges is the value's probability.
        depth: Number of tokens in the longest path.
    """

    name: str
    values: tuple[AttributeValue, ...]
    is_integer: bool
    forced: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    nodes: tuple[tuple[int, int], ...]
    edges: tuple[tuple[int, int], ...]
    routes: tuple[tuple[int, ...], ...]
    depth: int


@dataclass(frozen=True, slots=True)
class SlotConstraint:
    """Which values of a slot remain, given the value of an earlier one.

    Attributes:
        earlier: Index of the earlier slot.
        later: Index of the slot.
        allowed: For each value of the earlier slot, whether each value of the later one remains.
    """

    earlier: int
    later: int
    allowed: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """All slots of the answer in order, their constraints, and the text that leads to the reasoning.

    Attributes:
        slots: One slot per attribute.
        constraints: What the schema's rules demand.
        reasoning: Token ids between the last value and the reasoning's first character.
    """

    slots: tuple[Slot, ...]
    constraints: tuple[SlotConstraint, ...]
    reasoning: tuple[int, ...]


def answer_grammar(schema: AttributeSchema, tokenize: Tokenize) -> AnswerGrammar:
    """Build the grammar of the answer for one tokenizer.

    Each value is tokenised together with the text before it, as the model would write it. Tokens with which
    all values of a slot begin are part of the forced text.

    Args:
        schema: The attributes.
        tokenize: The model's tokenizer.
    """
    attributes = list(schema)
    texts = _texts_before(attributes)
    closers = [*texts[1:], reasoning_text(schema)]
    slots: list[Slot] = []
    for attribute, text, after in zip(attributes, texts, closers, strict=True):
        written = [json.dumps(value, ensure_ascii=False) for value in attribute.values]
        if attribute.type == "category":
            # The quotes belong to the forced text, so that "male" and "female" differ in their first token.
            lead, closing = f'{text} "', f'"{after}'
            written = [value[1:-1] for value in written]
        else:
            # The space belongs to the value, because " true" is one token but " " and "true" are two.
            lead, closing = text, after
            written = [f" {value}" for value in written]
        if slots and attributes[len(slots) - 1].type == "category":
            lead = f'"{lead}'
        slots.append(_slot(attribute, lead, written, tokenize(closing)[0], tokenize))
    quote = '"' if attributes[-1].type == "category" else ""
    return AnswerGrammar(
        slots=tuple(slots),
        constraints=tuple(_constraints(schema)),
        reasoning=tuple(tokenize(f'{quote}{reasoning_text(schema)} "')),
    )


def _constraints(schema: AttributeSchema) -> Iterator[SlotConstraint]:
    """Yield the constraints of the rules, each for the attribute that is answered later."""
    attributes = list(schema)
    index = {name: position for position, name in enumerate(schema.names)}
    for constraint in (c for rule in schema.rules for c in rule.constraints):
        first, second = index[constraint.first], index[constraint.second]
        if first == second:
            continue
        allowed = [
            [constraint.allowed(one, other) for other in attributes[second].values]
            for one in attributes[first].values
        ]
        if first > second:
            first, second, allowed = second, first, [list(column) for column in zip(*allowed, strict=True)]
        yield SlotConstraint(first, second, tuple(map(tuple, allowed)))


def reasoning_text(schema: AttributeSchema) -> str:
    """Return the text between the last value and the reasoning's opening quote."""
    nested = any(attribute.nested for attribute in schema)
    return '}, "reasoning":' if nested else ', "reasoning":'


def _texts_before(attributes: Sequence[Attribute]) -> list[str]:
    """Return the text before each value, without the quotes of categories or the space before a value."""
    texts = []
    inside = False
    for index, attribute in enumerate(attributes):
        text = " {" if index == 0 else ", "
        if attribute.nested and not inside:
            text += f'"{NESTED_KEY}": {{'
            inside = True
        texts.append(f'{text}"{attribute.name}":')
    return texts


def _slot(attribute: Attribute, lead: str, written: Sequence[str], closing: int, tokenize: Tokenize) -> Slot:
    sequences = [tokenize(lead + value) for value in written]
    shared = 0
    while min(map(len, sequences)) > shared + 1 and len({s[shared] for s in sequences}) == 1:
        shared += 1
    paths = [tuple(sequence[shared:]) for sequence in sequences]
    # If a value is the beginning of another one ("1" and "12"), the token that follows it separates the two.
    scored = [p + (closing,) * any(q[: len(p)] == p for q in paths if q is not p) for p in paths]
    nodes: list[tuple[int, int]] = []
    edges: dict[tuple[int, int], int] = {}
    known: dict[tuple[int, ...], int] = {(): -1}
    for path in sorted(scored, key=len):
        for length, token in enumerate(path):
            edges.setdefault((_node(path[:length], nodes, known), token), len(edges))
    routes = [tuple(edges[known[p[:n]], p[n]] for n in range(len(p))) for p in scored]
    return Slot(
        name=attribute.name,
        values=attribute.values,
        is_integer=attribute.type == "integer",
        forced=tuple(sequences[0][:shared]),
        paths=tuple(paths),
        nodes=tuple(nodes),
        edges=tuple(edges),
        routes=tuple(routes),
        depth=max(map(len, paths)),
    )


def _node(path: tuple[int, ...], nodes: list[tuple[int, int]], known: dict[tuple[int, ...], int]) -> int:
    """Return the index of the node at the end of a path; a new node is added together with its parents."""
    if path not in known:
        parent = _node(path[:-1], nodes, known)
        known[path] = len(nodes)
        nodes.append((parent, path[-1]))
    return known[path]
