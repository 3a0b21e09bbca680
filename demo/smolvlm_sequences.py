"""True answers as the token sequences that guided decoding would run on the way to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actors.answer_grammar import AnswerGrammar, answer_grammar
from actors.attributes import AttributeSchema

IGNORED = -100
"""Target of a token that isn't learned, as torch's cross entropy has it."""


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Token ids of the prompt.

    Attributes:
        prefix: Before the image, the same for every crop.
        tail: From the image's first token to the beginning of the answer.
        grammar: The answer's forced tokens and the paths of its values.
    """

    prefix: tuple[int, ...]
    tail: tuple[int, ...]
    grammar: AnswerGrammar


def prompt_tokens(processor: Any, schema: AttributeSchema, prompt: str) -> PromptTokens:
    """Tokenise a prompt and lay out its answer.

    Args:
        processor: Of the model.
        schema: The attributes.
        prompt: Text of the question, with the attributes filled in.
    """
    content = [{"type": "text", "text": prompt}, {"type": "image"}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    before, image, after = text.partition(processor.image_token)
    shown = (
        processor.fake_image_token
        + processor.global_image_token
        + processor.image_seq_len * image
        + processor.fake_image_token
    )

    def tokenize(text: str) -> list[int]:
        return list(processor.tokenizer.encode(text, add_special_tokens=False))

    return PromptTokens(
        tuple(tokenize(before)), tuple(tokenize(shown + after)), answer_grammar(schema, tokenize)
    )


def write_answer(grammar: AnswerGrammar, values: Sequence[int]) -> tuple[list[int], list[int]]:
    """One answer's tokens and which of them are learned.

    Learned are the tokens that a value is scored by: its own and, where another value begins with it
    ("1" and "12"), the forced one that closes it.

    Args:
        grammar: Of the answer.
        values: For each slot the index of its value.

    Returns:
        Token ids, and as many targets: the same ids, or IGNORED. What is forced behind the last value
        is left out.
    """
    ids: list[int] = []
    targets: list[int] = []
    closed = 0
    for slot, value in zip(grammar.slots, values, strict=True):
        ids += slot.forced
        targets += [*slot.forced[:closed], *[IGNORED] * (len(slot.forced) - closed)]
        path = slot.paths[value]
        ids += path
        targets += path
        closed = len(slot.routes[value]) - len(path)
    return ids, targets


def write_batch(grammar: AnswerGrammar, values: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Answers of a batch, padded on the right.

    Args:
        grammar: Of the answers.
        values: (rows, slots) int64.
        padding: Token id to pad with; never learned.

    Returns:
        Token ids and targets, (rows, longest) int64 each.
    """
    answers = [write_answer(grammar, row) for row in values.tolist()]
    longest = max(len(ids) for ids, _ in answers)
    ids = torch.full((len(answers), longest), padding)
    targets = torch.full((len(answers), longest), IGNORED)
    for row, (tokens, learned) in enumerate(answers):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        targets[row, : len(tokens)] = torch.tensor(learned)
    return ids, targets
