"""An untrained SmolVLM with two million parameters, and a tokenizer made for the job's own prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from transformers import (
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from actors.attributes import AttributeSchema
from actors.prompt import read_prompt
from actors.smolvlm.key_values import GROUPED_ATTENTION

SIDE_PX = 96
"""Side of the square that a crop is scaled to, in pixels."""

_PATCH_PX = 16
_SHUFFLE = 2
"""Number of patches along each side that the connector joins into one image token."""

_WIDTH = 160
_INITIAL = 0.07
"""Standard deviation of the random weights, about 1 / sqrt(width). The library's default of 0.02 is meant for
wider models; with it, a model as narrow as this one starts to learn later, because little of its input gets
through."""

_VISION = {
    "hidden_size": _WIDTH,
    "intermediate_size": 4 * _WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "initializer_range": _INITIAL,
}
_TEXT = {
    "model_type": "llama",
    "hidden_size": _WIDTH,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": _INITIAL,
}

_VOCABULARY = 1024
_START, _STOP = "<|im_start|>", "<end_of_utterance>"
_IMAGE_TOKENS = ["<fake_token_around_image>", "<image>", "<global-img>", "<video>"]
_TILE_TOKENS = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
_SPECIAL = ["<|endoftext|>", _START, _STOP, *_IMAGE_TOKENS, *_TILE_TOKENS]

_PIECES = r"""[",{} ]*"[a-z_]+":(?: "| \{)?|\d| (?:true|false|null)\b|[^\n\d"]+|"(?:, ")?|\n"""
"""Pieces that no token may cross: a key with the JSON around it, a single digit, or a value.

Any text within a piece may become one token, so the text that the schema forces between two values is one
token. Each digit is a token, as in SmolLM2, so an age is a sequence of tokens and not a class of its own.
"""


def job_prompt(schema: AttributeSchema) -> str:
    """Return the job's default prompt: the shipped prompt with the attributes filled in."""
    texts = (schema.prompt_text(), schema.prompt_uncertainty())
    return read_prompt("smolvlm.prompt", None, "smolvlm.txt", *texts).text


def make_processor(schema: AttributeSchema) -> SmolVLMProcessor:
    """Make a processor with tokenizer, image processor and chat template.

    Args:
        schema: Attributes whose prompt and answers the tokenizer is made for. It can also encode other
            text, but needs more tokens for it.
    """
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_train_tokenizer(schema),
        bos_token=_START,
        eos_token=_STOP,
        pad_token="<|endoftext|>",  # noqa: S106 - a token of text, no secret
        additional_special_tokens=[*_IMAGE_TOKENS, *_TILE_TOKENS],
    )
    size, tile = {"longest_edge": 4 * SIDE_PX}, {"longest_edge": SIDE_PX}
    return SmolVLMProcessor(
        SmolVLMImageProcessor(size=size, max_image_size=tile),
        tokenizer,
        SmolVLMVideoProcessor(size=size, max_image_size=tile),
        image_seq_len=(SIDE_PX // _PATCH_PX // _SHUFFLE) ** 2,
        chat_template=DEFAULT_CHAT_TEMPLATE,
    )


def make_model(tokenizer: Any) -> Any:
    """Make a SmolVLMForConditionalGeneration in float32, with random weights from torch's generator.

    Args:
        tokenizer: Tokenizer of `make_processor`; its size is the size of the model's vocabulary.
    """
    token = tokenizer.convert_tokens_to_ids
    special = {
        "bos_token_id": token(_START),
        "eos_token_id": token(_STOP),
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = SmolVLMConfig(
        vision_config={**_VISION, "image_size": SIDE_PX, "patch_size": _PATCH_PX},
        text_config={**_TEXT, **special, "vocab_size": len(tokenizer), "tie_word_embeddings": True},
        scale_factor=_SHUFFLE,
        image_token_id=token("<image>"),
        tie_word_embeddings=True,
        **special,
    )
    return AutoModelForImageTextToText.from_config(
        config, attn_implementation={"text_config": GROUPED_ATTENTION, "vision_config": "sdpa"}
    )


def _train_tokenizer(schema: AttributeSchema) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(schema), trainer)
    return tokenizer


def _corpus(schema: AttributeSchema) -> Iterator[str]:
    """Yield the prompt once, and enough answers for their parts to be the most frequent text.

    The most frequent text becomes tokens first.
    """
    yield f"User: {job_prompt(schema)}"
    yield "\nAssistant:"
    attributes = list(schema)
    for index in range(max(len(attribute.values) for attribute in attributes)):
        values = {a.name: a.values[index % len(a.values)] for a in attributes}
        yield " " + json.dumps({**schema.nest(values), "reasoning": ""}, ensure_ascii=False)
