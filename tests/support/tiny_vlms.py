"""Make tiny vision-language models of several architectures, with their real classes and random weights.

Run `python -m tests.support.tiny_vlms qwen2_5_vl FOLDER` to make one by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.tiny_smolvlm import train_tokenizer

_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_vlm(architecture: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny model of an architecture, with its tokenizer and its processor, to a folder.

    Args:
        architecture: One of `ARCHITECTURES`.
        folder: Folder, created if missing.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    config, processor = ARCHITECTURES[architecture]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(*special: str, **named: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special, *named.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer([], tokens),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named,
        additional_special_tokens=list(special),
    )


def _special_ids(tokenizer: Any) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _qwen2_5_vl() -> tuple[Any, Any]:
    """Pictures of any size, with as many tokens as they need, and rotary positions in three dimensions."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = _tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    token = tokenizer.convert_tokens_to_ids
    pixels = {"patch_size": 14, "merge_size": 2, "min_pixels": 28 * 28, "max_pixels": 28 * 28 * 12}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**pixels),
        tokenizer,
        Qwen2VLVideoProcessor(**pixels),
        chat_template=_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    config = Qwen2_5_VLConfig(
        text_config={
            **_TEXT,
            **_special_ids(tokenizer),
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "initializer_range": 1.0,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    return config, processor


def _internvl() -> tuple[Any, Any]:
    """Pictures in tiles of one size, with a pixel shuffle."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokenizer = _tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    size = {"height": 56, "width": 56}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size, crop_to_patches=False),
        tokenizer,
        InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=_TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>"),
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **_TEXT, **_special_ids(tokenizer), "vocab_size": len(tokenizer)},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [56, 56],
            "patch_size": [14, 14],
            "initializer_range": 1.0,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    return config, processor


def _lfm2_vl() -> tuple[Any, Any]:
    """A text model of convolutions and attention, and pictures of any size."""
    from transformers import Lfm2VlConfig, Lfm2VlImageProcessor, Lfm2VlProcessor

    special = ["<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]
    special += [f"<|img_row_{row}_col_{column}|>" for row in range(1, 3) for column in range(1, 3)]
    tokenizer = _tokenizer(*special)
    processor = Lfm2VlProcessor(
        Lfm2VlImageProcessor(
            encoder_patch_size=16, downsample_factor=2, min_image_tokens=4, max_image_tokens=12, tile_size=64
        ),
        tokenizer,
        chat_template=_TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = Lfm2VlConfig(
        text_config={
            **_TEXT,
            **_special_ids(tokenizer),
            "model_type": "lfm2",
            "vocab_size": len(tokenizer),
            "layer_types": ["conv", "full_attention"],
        },
        vision_config={
            "model_type": "siglip2_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 16,
            "num_patches": 64,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
        downsample_factor=2,
        tie_word_embeddings=False,
    )
    return config, processor


def _paligemma() -> tuple[Any, Any]:
    """No chat template, and a prompt whose tokens see each other in both directions."""
    from transformers import PaliGemmaConfig, PaliGemmaProcessor, SiglipImageProcessor

    tokenizer = _tokenizer("<image>")
    images = SiglipImageProcessor(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer)
    config = PaliGemmaConfig(
        text_config={
            "model_type": "gemma",
            **_TEXT,
            **_special_ids(processor.tokenizer),
            "vocab_size": len(processor.tokenizer),
            "head_dim": 16,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 14,
            "image_size": 56,
            "vision_use_head": False,
        },
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=64,
        hidden_size=64,
        tie_word_embeddings=False,
    )
    return config, processor


ARCHITECTURES: Mapping[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_5_vl": _qwen2_5_vl,
    "internvl": _internvl,
    "lfm2_vl": _lfm2_vl,
    "paligemma": _paligemma,
}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("architecture", choices=ARCHITECTURES)
    arguments.add_argument("folder", type=Path)
    given = arguments.parse_args()
    print(make_vlm(given.architecture, given.folder))
