"""Write the short free text of an answer, token by token under a grammar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import xgrammar
from torch import Tensor

from actors.attributes import REASONING_MAX_CHARS

_LONGEST_ESCAPE = len(r"\ud83d\ude00")


class ReasoningWriter:
    """Compiles the grammar of a JSON string once, for one tokenizer.

    Attributes:
        max_tokens: Number of tokens after which the text is cut.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, max_tokens: int) -> None:
        """Compile the grammar.

        Args:
            tokenizer: The model's Hugging Face tokenizer.
            vocabulary: Number of rows in the model's head, which may exceed the tokenizer's vocabulary.
            max_tokens: Number of tokens after which the text is cut.
        """
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
        text = json.dumps({"type": "string", "maxLength": REASONING_MAX_CHARS})
        self._grammar = xgrammar.GrammarCompiler(info).compile_json_schema(text, any_whitespace=False)

    def begin(self, rows: int) -> ReasoningBatch:
        """Begin a text in every row, after the opening quote."""
        matchers = []
        for _ in range(rows):
            matcher = xgrammar.GrammarMatcher(self._grammar, terminate_without_stop_token=True)
            matcher.accept_string('"')
            matchers.append(matcher)
        return ReasoningBatch(self._tokenizer, matchers, self._vocabulary)


class ReasoningBatch:
    """The texts of one batch while they are written."""

    def __init__(self, tokenizer: Any, matchers: Sequence[Any], vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._matchers = matchers
        self._ids: list[list[int]] = [[] for _ in matchers]
        self._bitmask = xgrammar.allocate_token_bitmask(len(matchers), vocabulary)

    def next_tokens(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Append the likeliest token that the grammar allows to every row that hasn't ended.

        Args:
            logits: (rows, vocabulary) float32; overwritten.

        Returns:
            Token ids (rows, 1) int64, which are 0 in rows that have ended, and whether each row continues,
            (rows,) bool.
        """
        running = [index for index, matcher in enumerate(self._matchers) if not matcher.is_terminated()]
        for index in running:
            self._matchers[index].fill_next_token_bitmask(self._bitmask, index)
        if running:
            xgrammar.apply_token_bitmask_inplace(logits, self._bitmask.to(logits.device), indices=running)
        best = logits.argmax(dim=1).tolist()
        for index in running:
            self._matchers[index].accept_token(best[index])
            self._ids[index].append(best[index])
        goes_on = [index in running and not m.is_terminated() for index, m in enumerate(self._matchers)]
        ids = [token if on else 0 for token, on in zip(best, goes_on, strict=True)]
        device = logits.device
        return torch.tensor(ids, device=device)[:, None], torch.tensor(goes_on, device=device)

    def finish(self) -> list[str]:
        """Return the unescaped texts; an incomplete last character of a cut text is removed."""
        return [self._text(ids) for ids in self._ids]

    def _text(self, ids: list[int]) -> str:
        written = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        written = written.rstrip("\ufffd")
        if written.endswith('"'):
            try:
                return str(json.loads(f'"{written}', strict=False)).strip()
            except json.JSONDecodeError:
                pass  # the text was cut after an escaped quote
        for cut in range(_LONGEST_ESCAPE + 1):
            try:
                return str(json.loads(f'"{written[: len(written) - cut]}"', strict=False)).strip()
            except json.JSONDecodeError:
                continue
        return ""
