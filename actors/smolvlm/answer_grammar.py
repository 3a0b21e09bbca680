"""The answer as fixed text with slots, and each slot's allowed values as a tree of tokens.

An answer is JSON in which only the values are open: `{"gender": ` slot `, "age_group": ` slot ... `}}`.
The text between two slots is forced; in a slot one of a few token paths is taken. The paths of a
slot share their beginnings (a trie), so one forward pass over its inner nodes gives the probability
of every value exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.attributes import NESTED_KEY, Attribute, AttributeSchema, AttributeValue

Tokenize = Callable[[str], list[int]]
"""Text to token ids, adding no special tokens."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One open place of the answer.

    Attributes:
        name: The attribute answered here.
        values: Its allowed values.
        forced: Token ids between the value before (or the prompt) and this one.
        paths: For each value the token ids that write it.
        nodes: Inner nodes of the trie of paths, parents first: (index of the parent node or -1 for the
            root, token id). These are the tokens to run beside the forced ones; leaves needn't be run.
        edges: Every (node or -1, next token id) that some value takes.
        routes: For each value the indices into `edges` that its probability is the product of.
        depth: Tokens of the longest path.
    """

    name: str
    values: tuple[AttributeValue, ...]
    forced: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    nodes: tuple[tuple[int, int], ...]
    edges: tuple[tuple[int, int], ...]
    routes: tuple[tuple[int, ...], ...]
    depth: int


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """All slots in order, and the text that closes the answer.

    Attributes:
        slots: One an attribute.
        texts: Forced text before each slot, as it was tokenised (up to the value, or its first tokens
            where all values begin alike).
        reasoning: Token ids between the last value and the reasoning's first character.
    """

    slots: tuple[Slot, ...]
    texts: tuple[str, ...]
    reasoning: tuple[int, ...]


def answer_grammar(schema: AttributeSchema, tokenize: Tokenize) -> AnswerGrammar:
    """Lay out the answer for one tokenizer.

    Values are tokenised with the text before them, as the model would write them, and what all
    values of a slot begin with counts as forced.

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
            # The quotes belong to the forced text: "male" and "female" then differ in the first token.
            lead, closing = f'{text} "', f'"{after}'
            written = [value[1:-1] for value in written]
        else:
            # The space goes with the value: " true" is one token, " " and "true" would be two.
            lead, closing = text, after
            written = [f" {value}" for value in written]
        if slots and attributes[len(slots) - 1].type == "category":
            lead = f'"{lead}'
        slots.append(_slot(attribute, lead, written, tokenize(closing)[0], tokenize))
    quote = '"' if attributes[-1].type == "category" else ""
    return AnswerGrammar(
        slots=tuple(slots),
        texts=tuple(texts),
        reasoning=tuple(tokenize(f'{quote}{reasoning_text(schema)} "')),
    )


def reasoning_text(schema: AttributeSchema) -> str:
    """Text from the last value to the reasoning's opening quote."""
    nested = any(attribute.nested for attribute in schema)
    return '}, "reasoning":' if nested else ', "reasoning":'


def _texts_before(attributes: Sequence[Attribute]) -> list[str]:
    """Forced text before each value, without the quotes of categories or the space before a value."""
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
    # A value that another one begins with ("1" and "12") is told from it by what closes it.
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
        forced=tuple(sequences[0][:shared]),
        paths=tuple(paths),
        nodes=tuple(nodes),
        edges=tuple(edges),
        routes=tuple(routes),
        depth=max(map(len, paths)),
    )


def _node(path: tuple[int, ...], nodes: list[tuple[int, int]], known: dict[tuple[int, ...], int]) -> int:
    """Index of the node that a path leads to, added with its parents if it is new."""
    if path not in known:
        parent = _node(path[:-1], nodes, known)
        known[path] = len(nodes)
        nodes.append((parent, path[-1]))
    return known[path]
