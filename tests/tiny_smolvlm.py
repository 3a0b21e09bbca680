"""A SmolVLM with the real classes and random weights, made on the spot: 1 MB, two layers, offline.

Run as `python -m tests.tiny_smolvlm FOLDER` to make one by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SIDE_PX = 64
PATCH_PX = 16
SCALE = 2
IMAGE_TOKENS = (SIDE_PX // PATCH_PX // SCALE) ** 2

_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>"]
_SPECIAL += ["<global-img>", "<video>", *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7))]

_CORPUS = [
    '{"gender": "female", "age_group": "18 to 28", "exact_age": 23, "attributes": {"glasses": true, "cap": false}}',
    "Describe the person in the image as one JSON object with exactly these keys: summer winter unknown null",
    "under 18, 28 to 38, 38 to 48, 48 to 58, 58 and over, headscarf, occlusion, facing_camera, season_clothing",
]


def make_tiny_smolvlm(folder: Path, seed: int = 0) -> Path:
    """Write model, tokenizer and processor to a folder that `from_pretrained` reads.

    Args:
        folder: Made if missing.
        seed: Of the weights; the same seed gives the same weights.

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

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_train_tokenizer(),
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_start|>",
        additional_special_tokens=_SPECIAL[3:],
    )
    size = {"longest_edge": 4 * SIDE_PX}
    tile = {"longest_edge": SIDE_PX}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size=size, max_image_size=tile),
        tokenizer,
        SmolVLMVideoProcessor(size=size, max_image_size=tile),
        image_seq_len=IMAGE_TOKENS,
        chat_template=DEFAULT_CHAT_TEMPLATE,
    )
    token = tokenizer.convert_tokens_to_ids
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": SIDE_PX,
            "patch_size": PATCH_PX,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 4096,
            "bos_token_id": token("<|im_start|>"),
            "eos_token_id": token("<end_of_utterance>"),
            "pad_token_id": token("<|im_start|>"),
            # Wide enough that answers differ from crop to crop.
            "initializer_range": 0.2,
        },
        scale_factor=SCALE,
        image_token_id=token("<image>"),
        pad_token_id=token("<|im_start|>"),
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _train_tokenizer() -> object:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # As SmolLM2 has it: digits one by one, then GPT-2's byte-level words.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    return tokenizer


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    print(make_tiny_smolvlm(given.folder, given.seed))
