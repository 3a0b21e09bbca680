"""Keep a model to the schema's grammar while it generates, and remember what it could have written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import xgrammar
from torch import Tensor
from transformers import LogitsProcessor

from actors.attributes import REASONING_KEY, AttributeSchema
from actors.smolvlm.value_confidences import WrittenToken

_ALTERNATIVES = 20
"""Tokens that are remembered at each position with their probabilities."""

_EXPLANATION = f'"{REASONING_KEY}": "'.encode()


class SchemaGrammar:
    """The grammar of an answer, compiled once for one tokenizer."""

    def __init__(
        self,
        tokenizer: Any,
        vocabulary: int,
        stop_ids: Sequence[int],
        schema: AttributeSchema,
        reasoning_tokens: int = 0,
    ) -> None:
        """Compile the grammar.

        Args:
            tokenizer: The model's Hugging Face tokenizer.
            vocabulary: Number of the model's logits, which may exceed the tokenizer's vocabulary.
            stop_ids: Tokens that end an answer.
            schema: The attributes.
            reasoning_tokens: Number of tokens after which an explanation is cut; 0 for answers without one.

        Raises:
            RuntimeError, ValueError, TypeError: xgrammar doesn't know this kind of tokenizer.
        """
        info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocabulary, stop_token_ids=list(stop_ids)
        )
        # Keys follow in the order of the schema, with one space after a colon and a comma, as in json.dumps.
        self.compiled = xgrammar.GrammarCompiler(info).compile_json_schema(
            json.dumps(schema.json_schema(reasoning_tokens > 0)), any_whitespace=False
        )
        self.vocabulary = vocabulary
        self.stop_ids = tuple(stop_ids)
        self.reasoning_tokens = reasoning_tokens
        # xgrammar takes "<image>" for a text that a string may contain.
        special = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
        self.forbidden = sorted(set(special) - set(stop_ids))
        self.bytes_of: Sequence[bytes] = info.decoded_vocab


class _Row:
    """The answer in one row so far."""

    def __init__(self, grammar: SchemaGrammar) -> None:
        self.matcher = xgrammar.GrammarMatcher(grammar.compiled)
        self._grammar = grammar
        self._text = b""
        self._explained: int | None = None

    def append(self, token: int) -> None:
        if self.has_ended:
            return
        self.matcher.accept_token(token)
        if self._explained is not None:
            self._explained += 1
        elif self._grammar.reasoning_tokens:
            self._text += self._grammar.bytes_of[token]
            self._explained = 0 if _EXPLANATION in self._text else None

    @property
    def is_cut(self) -> bool:
        return self._explained is not None and self._explained >= self._grammar.reasoning_tokens

    @property
    def has_ended(self) -> bool:
        return self.is_cut or self.matcher.is_terminated()


class SchemaLogits(LogitsProcessor):  # type: ignore[misc]
    """Masks the logits of one batch.

    The rows are independent of each other. After its answer, a row can only stop.
    """

    def __init__(self, grammar: SchemaGrammar, rows: int) -> None:
        self._grammar = grammar
        self._rows = [_Row(grammar) for _ in range(rows)]
        self._bitmask = xgrammar.allocate_token_bitmask(rows, grammar.vocabulary)
        self._begun = False
        self._likeliest: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Forbid every token that the grammar doesn't allow next.

        Args:
            input_ids: The tokens so far, (rows, columns) int64.
            scores: Logits of the next token, (rows, vocabulary) float32; overwritten.

        Returns:
            The logits, which are -inf for tokens that aren't allowed.
        """
        if self._begun:
            for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                row.append(token)
        self._begun = True
        running = [index for index, row in enumerate(self._rows) if not row.has_ended]
        for index in running:
            self._rows[index].matcher.fill_next_token_bitmask(self._bitmask, index)
        scores[:, self._grammar.forbidden] = float("-inf")
        if running:
            xgrammar.apply_token_bitmask_inplace(scores, self._bitmask.to(scores.device), indices=running)
        for index in (index for index, row in enumerate(self._rows) if row.is_cut):
            scores[index] = float("-inf")
            scores[index, self._grammar.stop_ids[0]] = 0
        logarithms = torch.log_softmax(scores.float(), dim=1)
        best = logarithms.topk(min(_ALTERNATIVES, self._grammar.vocabulary), dim=1)
        self._likeliest.append((best.indices, best.values))
        return scores

    def written(self, generated: Tensor) -> list[list[WrittenToken]]:
        """Return the tokens of each row's answer, without the one that ends it.

        Args:
            generated: The generated tokens, (rows, columns) int64.
        """
        ids = torch.stack([ids for ids, _ in self._likeliest], dim=1).tolist()
        logarithms = torch.stack([values for _, values in self._likeliest], dim=1).tolist()
        return [
            list(self._row(tokens, row_ids, row_logarithms))
            for tokens, row_ids, row_logarithms in zip(generated.tolist(), ids, logarithms, strict=True)
        ]

    def _row(
        self, tokens: Sequence[int], ids: Sequence[Sequence[int]], logarithms: Sequence[Sequence[float]]
    ) -> Iterator[WrittenToken]:
        bytes_of = self._grammar.bytes_of
        for token, likely, values in zip(tokens, ids, logarithms, strict=False):
            if token in self._grammar.stop_ids:
                return
            alternatives = [
                (bytes_of[other], value)
                for other, value in zip(likely, values, strict=True)
                if value > float("-inf")
            ]
            yield WrittenToken(bytes_of[token], alternatives)
