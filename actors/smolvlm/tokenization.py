"""Check that a tokenizer splits texts as guided decoding assumes.

Guided decoding never tokenises a whole answer: it appends the tokens of forced text and of values, and runs
the prompt before the picture by itself. That is what the model would read only if the pieces have the same
tokens apart as together, which depends on the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from actors.attribute import AttributeValue
from actors.attributes import AttributeSchema
from actors.errors import TokenizationError
from actors.smolvlm.answer_grammar import AnswerGrammar, Slot, Tokenize


def check_tokenization(
    schema: AttributeSchema,
    grammar: AnswerGrammar,
    tokenize: Tokenize,
    prefix: Sequence[int],
    prompt: Sequence[int],
) -> None:
    """Check the prompt, and answers in which each value of each attribute occurs.

    Args:
        schema: The attributes.
        grammar: The slots of the answer, made with `tokenize`.
        tokenize: The model's tokenizer.
        prefix: Tokens of the prompt before its picture, without what follows.
        prompt: Tokens of the whole prompt, as the model's processor gives them.

    Raises:
        TokenizationError: The pieces of a text have other tokens than the whole.
    """
    if list(prompt[: len(prefix)]) != list(prefix):
        raise TokenizationError("the prompt before the picture has other tokens by itself")
    for values in _answers(schema):
        document = json.dumps(schema.nest(values), ensure_ascii=False)
        pieces = [token for slot in grammar.slots for token in _pieces(slot, values)]
        # The document ends after the last value with what guided decoding doesn't write.
        if tokenize(f" {document}")[: len(pieces)] != pieces:
            raise TokenizationError(f"the answer {document} has other tokens than its pieces")


def _answers(schema: AttributeSchema) -> Iterator[Mapping[str, AttributeValue]]:
    """Yield answers in which each value of each attribute occurs, between the first values of the others."""
    first = {attribute.name: attribute.values[0] for attribute in schema}
    for attribute in schema:
        for value in attribute.values:
            yield {**first, attribute.name: value}


def _pieces(slot: Slot, values: Mapping[str, AttributeValue]) -> tuple[int, ...]:
    return slot.forced + slot.paths[slot.values.index(values[slot.name])]
