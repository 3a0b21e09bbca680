"""Tokens of the prompt and of true answers: the same sequences as in guided decoding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actors.attributes import AttributeSchema
from actors.smolvlm.answer_grammar import AnswerGrammar, answer_grammar

IGNORED = -100
"""Target of padding. It is the default `ignore_index` of torch's cross entropy."""


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Token ids of the prompt.

    Attributes:
        prefix: Tokens before the image, the same for every crop.
        tail: Tokens from the image's first token to the beginning of the answer.
        grammar: The answer's forced tokens, and the token paths of its values.
    """

    prefix: tuple[int, ...]
    tail: tuple[int, ...]
    grammar: AnswerGrammar


def prompt_tokens(processor: Any, schema: AttributeSchema, prompt: str) -> PromptTokens:
    """Tokenise a prompt, and make the grammar of its answer.

    Args:
        processor: Processor of the model.
        schema: The attributes.
        prompt: Text of the prompt, with the attributes filled in.
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


def write_answers(
    tokenizer: Any, schema: AttributeSchema, values: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Tokenise the answers of a batch, from the end of the prompt to the end of the utterance.

    The JSON is tokenised as a whole, which gives exactly the tokens that guided decoding forces or chooses.
    The model learns all of them. Guided decoding only needs the values, but a model that has also learned
    the text between them gives the same answers without guided decoding, which can be used to check it.

    Args:
        tokenizer: Tokenizer of the model.
        schema: The attributes.
        values: Index of the value for each row and attribute.

    Returns:
        Token ids, padded on the right, and targets, which are the token ids with IGNORED in place of the
        padding. Both are (rows, longest) int64.
    """
    answers = [
        tokenizer.encode(write_answer(schema, row) + tokenizer.eos_token, add_special_tokens=False)
        for row in values
    ]
    longest = max(map(len, answers))
    ids = torch.full((len(answers), longest), tokenizer.pad_token_id)
    targets = torch.full((len(answers), longest), IGNORED)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = targets[row, : len(answer)] = torch.tensor(answer)
    return ids, targets


def write_answer(schema: AttributeSchema, values: Sequence[int]) -> str:
    """Write one answer as it follows the prompt: a space, and JSON on one line.

    Args:
        schema: The attributes.
        values: Index of the value for each attribute.
    """
    named = {a.name: a.values[index] for a, index in zip(schema, values, strict=True)}
    return " " + json.dumps(schema.nest(named), ensure_ascii=False)
