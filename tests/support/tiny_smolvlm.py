"""Make a tiny SmolVLM (1 MB, two layers) with the real classes and random weights, without a download.

Run `python -m tests.support.tiny_smolvlm FOLDER` to make one by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a model. Sizes that aren't given have the defaults of the configuration classes."""

    side_px: int
    patch_px: int
    scale: int
    vision: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)


TINY = Architecture(
    side_px=64,
    patch_px=8,
    scale=1,
    vision={
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        # With as many image tokens as the real model and large weights, answers differ from crop to crop.
        "initializer_range": 1.0,
    },
    text={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.3,
    },
)

_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>"]
_SPECIAL += ["<global-img>", "<video>", *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7))]

_CORPUS = [
    '{"gender": "female", "age_group": "18 to 28", "exact_age": 23, "attributes": {"glasses": true, ',
    '"cap": false, "season_clothing": "summer", "winter", "under 18", "58 and over", "unknown", null',
    "Describe the person in the image as one JSON object with exactly these keys:",
    "headscarf, occlusion, facing_camera, season_clothing, hood, mask, cap, male, reasoning",
]


def make_tiny_smolvlm(folder: Path, seed: int = 0) -> Path:
    """Write a tiny model, its tokenizer and its processor to a folder that `from_pretrained` can read.

    Args:
        folder: Folder, created if missing.
        seed: Seed of the weights; the same seed gives the same weights.

    Returns:
        The folder.
    """
    return make_smolvlm(folder, TINY, seed)


def make_smolvlm(folder: Path, architecture: Architecture, seed: int = 0, corpus: Sequence[str] = ()) -> Path:
    """Write a model of any architecture, its tokenizer and its processor, as `make_tiny_smolvlm` does.

    Args:
        folder: Folder, created if missing.
        architecture: Sizes of the model; its vocabulary may be larger than the tokenizer's.
        seed: Seed of the weights.
        corpus: Additional text to train the tokenizer on; each of its words becomes one token.

    Returns:
        The folder.
    """
    import torch
    from transformers import (
        AutoModelForImageTextToText,
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(corpus),
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_start|>",
        additional_special_tokens=_SPECIAL[3:],
    )
    size = {"longest_edge": 4 * architecture.side_px}
    tile = {"longest_edge": architecture.side_px}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size=size, max_image_size=tile),
        tokenizer,
        SmolVLMVideoProcessor(size=size, max_image_size=tile),
        image_seq_len=(architecture.side_px // architecture.patch_px // architecture.scale) ** 2,
        chat_template=DEFAULT_CHAT_TEMPLATE,
    )
    token: Any = tokenizer.convert_tokens_to_ids
    special = {
        "bos_token_id": token("<|im_start|>"),
        "eos_token_id": token("<end_of_utterance>"),
        "pad_token_id": token("<|im_start|>"),
    }
    pixels = {"image_size": architecture.side_px, "patch_size": architecture.patch_px}
    config = SmolVLMConfig(
        vision_config={**pixels, **architecture.vision},
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **special, **architecture.text},
        scale_factor=architecture.scale,
        image_token_id=token("<image>"),
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def add_prefix_space(folder: Path) -> None:
    """Let a model's tokenizer begin each text with a space, for which guided decoding isn't made."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    path.write_text(json.dumps(content))


def train_tokenizer(corpus: Sequence[str], special: Sequence[str] = _SPECIAL) -> Any:
    """Return a byte-level BPE tokenizer like SmolLM2's, trained on answers and additional text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # Like SmolLM2's tokenizer: each digit is split off, then text is split into GPT-2's byte-level words.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000 if corpus else 600,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*_CORPUS, *corpus] * 4, trainer)
    return tokenizer


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    print(make_tiny_smolvlm(given.folder, given.seed))
