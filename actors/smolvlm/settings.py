"""The `smolvlm` section, and what it comes to before any work: a model and a prompt, found and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from actors.attributes import AttributeSchema
from actors.errors import ConfigError, WeightsError
from actors.fingerprint import fingerprint_of
from actors.prompt import read_prompt
from actors.settings_section import Section
from actors.smolvlm.checkpoint import Checkpoint, find_checkpoint

_DECODER_VERSION = 1
"""Raise when the same model, prompt and settings begin to give other answers."""

_ARCHITECTURES = ("smolvlm", "idefics3")


class SmolVLMSettings(Section):
    """The local annotator."""

    enabled: bool = Field(True, description="Whether SmolVLM is asked about every kept person")
    model: str = Field(
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        description="Any SmolVLM or SmolVLM2: a name on the Hugging Face hub or a folder all workers see",
    )
    revision: str | None = Field(
        None, description="Branch, tag or commit on the hub; its main branch by default"
    )
    prompt: str | None = Field(
        None,
        description="Prompt file, by default the shipped prompts/smolvlm.txt; {schema} in it becomes the "
        "list of attributes",
    )
    batch_size: int = Field(
        16,
        ge=1,
        le=1024,
        description="Crops a forward pass; halved where memory runs out. Answers don't depend on it",
    )
    actors: int | Literal["auto"] = Field(
        1, description="Workers that hold the model, or auto: as many as the cluster has room for"
    )
    gpus_per_actor: float = Field(
        0, ge=0, description="GPUs a worker takes (0.5: two share one); 0 runs on CPU"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic: auto is bfloat16 on GPU and float32 on CPU"
    )
    reasoning: bool = Field(False, description="Whether a short explanation follows each answer; slow")
    reasoning_max_tokens: int = Field(48, ge=1, le=256, description="Where the explanation is cut")
    image_size_px: int | None = Field(
        None,
        ge=32,
        le=1024,
        description="Side of the square that a crop is scaled to, by default the model's own (512 for "
        "SmolVLM2 256M and 500M); smaller is faster and sees less",
    )
    split_image: bool = Field(
        False, description="Whether large crops are also shown as up to 16 tiles, at up to 17 times the cost"
    )

    @model_validator(mode="after")
    def _counts_actors(self) -> Self:
        if self.actors != "auto" and self.actors < 1:
            raise ValueError("actors must be 1 or more, or auto")
        return self


@dataclass(frozen=True, slots=True)
class ResolvedSmolVLM:
    """What a run knows of its model before it starts, the same on every worker.

    Attributes:
        model: The model as it was named.
        model_version: Commit on the hub, or "sha256:" and the hash over a folder's files.
        prompt: Text with the attributes filled in.
        prompt_sha256: Of `prompt`.
        dtype: Arithmetic, decided.
        image_size_px: Side of a tile, decided.
        fingerprint: Of everything that changes an answer; batch size and actors don't.
        source: What the model is loaded from: a folder or a hub name.
        revision: Commit to load from the hub; None for a folder.
    """

    model: str
    model_version: str
    prompt: str
    prompt_sha256: str
    dtype: Literal["float32", "bfloat16"]
    image_size_px: int
    fingerprint: str
    source: str
    revision: str | None


def resolve_smolvlm(settings: SmolVLMSettings, schema: AttributeSchema) -> ResolvedSmolVLM:
    """Check model and prompt once, on the driver, before any work.

    Raises:
        ConfigError: The prompt can't be used, or the image size doesn't fit the model.
        WeightsError: The model is missing, unreachable or not a SmolVLM.
    """
    prompt = read_prompt("smolvlm.prompt", settings.prompt, "smolvlm.txt", schema.prompt_text())
    if "<image>" in prompt.text:
        raise ConfigError(
            f"smolvlm.prompt: {prompt.source} contains <image>; the crop is put behind the prompt by itself"
        )
    checkpoint = find_checkpoint("smolvlm.model", settings.model, settings.revision)
    if checkpoint.config.get("model_type") not in _ARCHITECTURES:
        raise WeightsError(
            f"smolvlm.model: {settings.model} is a {checkpoint.config.get('model_type')!r}, not a SmolVLM"
        )
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if settings.gpus_per_actor > 0 else "float32"
    image_size_px = _image_size(settings, checkpoint)
    content = {
        "decoder": _DECODER_VERSION,
        "model": checkpoint.version,
        "prompt": prompt.sha256,
        "schema": schema.sha256,
        "dtype": dtype,
        "reasoning": settings.reasoning_max_tokens if settings.reasoning else 0,
        "image_size_px": image_size_px,
        "split_image": settings.split_image,
    }
    return ResolvedSmolVLM(
        model=settings.model,
        model_version=checkpoint.version,
        prompt=prompt.text,
        prompt_sha256=prompt.sha256,
        dtype=dtype,
        image_size_px=image_size_px,
        fingerprint=fingerprint_of(content),
        source=checkpoint.source,
        revision=checkpoint.revision,
    )


def _image_size(settings: SmolVLMSettings, checkpoint: Checkpoint) -> int:
    vision = checkpoint.config.get("vision_config", {})
    patch, scale = vision.get("patch_size", 32), checkpoint.config.get("scale_factor", 2)
    size: int = settings.image_size_px or vision.get("image_size", 224)
    if size // patch % scale:
        raise ConfigError(
            f"smolvlm.image_size_px: {size} gives {size // patch} patches of {patch} px a side, not a "
            f"multiple of the model's {scale}; take a multiple of {patch * scale}"
        )
    return size
