"""The `smolvlm` section of the settings, and its resolution to a checked model and prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from actors.actor_bounds import ONE, ActorBounds
from actors.attributes import AttributeSchema
from actors.errors import ConfigError, WeightsError
from actors.fingerprint import fingerprint_of
from actors.prompt import Prompt, read_prompt
from actors.settings_section import Section
from actors.smolvlm.checkpoint import Checkpoint, find_checkpoint
from actors.smolvlm.server_settings import ServerSettings, read_server_key

_DECODER_VERSION = 1
"""Increase this number when a code change makes the same model, prompt and settings give other answers."""

GUIDED_ARCHITECTURES = ("smolvlm", "idefics3")
"""Model types of transformers that the engine `guided` runs."""

_GENERATE_VERSION = 1
_SERVER_VERSION = 1
"""Likewise for the other engines."""


class SmolVLMSettings(Section):
    """The local annotator."""

    enabled: bool = Field(True, description="Whether SmolVLM annotates every kept person.")
    engine: Literal["auto", "guided", "generate", "server"] = Field(
        "auto",
        description="What runs the model. `guided` runs a SmolVLM or SmolVLM2 in the workers, and only lets "
        "it choose values. `generate` runs other models there, token by token. `auto` is `guided` where it "
        "can be, else `generate`. `server` asks a server that you run, such as vLLM, SGLang, llama.cpp or "
        "Ollama.",
    )
    model: str = Field(
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        description="The model: a name on the Hugging Face hub, or a folder that all workers can read. For "
        "a server, the model's name there.",
    )
    revision: str | None = Field(
        None,
        description="Branch, tag or commit on the hub. By default, the main branch. For a server, which "
        "doesn't tell its version, any name for it: persons are asked about again when the name changes.",
    )
    prompt: str | None = Field(
        None,
        description="Prompt file. By default, the shipped prompts/smolvlm.txt. {schema} in it is replaced by "
        "the list of attributes, and {uncertainty} by what to answer where something can't be seen.",
    )
    batch_size: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto",
        description="Number of crops per forward pass. `auto` is 16 on a CPU, and on a GPU as many as free "
        "memory allows after a first batch of 16, at most 256 and 1 GiB of pixels. It is halved if memory "
        "runs out, and grows again later. Answers don't depend on it.",
    )
    actors: ActorBounds = Field(
        ONE,
        description="Number of workers that hold the model: a number, or `min` and `max`, between which a "
        "cluster's pool follows the work. `auto` is one on every GPU that is up or that the autoscaler may "
        "start, and one if they run on CPUs.",
    )
    gpus_per_actor: float = Field(
        0, ge=0, description="GPUs per worker. 0.5 lets two workers share one GPU, and 0 runs on the CPU."
    )
    node_resource: str | None = Field(
        None,
        min_length=1,
        description="Custom resource of Ray that a node of a cluster must have to run these workers. null "
        "lets them run on any node.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Arithmetic precision. `auto` picks bfloat16 on a GPU and float32 on a CPU. float16 is "
        "for GPUs that have no bfloat16, such as a T4.",
    )
    vision: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="What runs the vision tower of guided decoding on a CPU. `auto` tries OpenVINO, in int8 "
        "where nncf is installed, before the first run over 2,000 frames or more, and takes it if answers "
        "about 64 people of the input agree with torch's and it is faster. `openvino` insists on it.",
    )
    compile: bool = Field(
        False,
        description="Whether torch.compile makes one program of each pass of guided decoding, on a GPU as a "
        "CUDA graph. It takes minutes in each worker, needs a number as the `batch_size`, and fills smaller "
        "batches up to it. It was never tried on a GPU.",
    )
    reasoning: bool = Field(
        False, description="Whether a short explanation follows each answer, which is slow."
    )
    reasoning_max_tokens: int = Field(
        48, ge=1, le=256, description="Maximum number of tokens in an explanation. Longer ones are cut."
    )
    image_size_px: int | None = Field(
        None,
        ge=32,
        le=1024,
        description="Side of the square that a crop is scaled to, in pixels. By default, the model's own "
        "size (512 for SmolVLM2 256M and 500M). A smaller size is faster but shows less detail. This and the "
        "next two settings are SmolVLM's; other models see a crop as their processors show it.",
    )
    letterbox: bool = Field(
        True,
        description="Whether a crop keeps its shape within the square, between grey bars. Otherwise it is "
        "stretched to the square, as transformers does. Crops that are split into tiles have no bars.",
    )
    split_image: bool = Field(
        False, description="Whether large crops are also shown as up to 16 tiles, at up to 17 times the cost."
    )
    server: ServerSettings = Field(ServerSettings(), description="The server of the engine `server`.")

    def can_use_tower(self, engine: str) -> bool:
        """Return whether a network of OpenVINO can be the vision tower of an engine."""
        return engine in ("auto", "guided") and self.gpus_per_actor == 0 and not self.split_image

    @field_validator("batch_size", mode="wrap")
    @classmethod
    def _says_what_a_batch_may_be(cls, value: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(value)
        except ValidationError as error:
            raise ValueError(f"must be auto or a number from 1 to 1024 (it is {value!r})") from error

    @model_validator(mode="after")
    def _has_a_gpu_for_float16(self) -> Self:
        if self.dtype == "float16" and self.gpus_per_actor == 0:
            raise ValueError("dtype float16 is for GPUs: set gpus_per_actor, or use float32 or bfloat16")
        return self

    @model_validator(mode="after")
    def _compiles_for_one_size(self) -> Self:
        if self.compile and (self.batch_size == "auto" or self.engine not in ("auto", "guided")):
            raise ValueError("compile is for guided decoding with a batch_size that is a number, such as 64")
        return self

    @model_validator(mode="after")
    def _insists_where_it_can(self) -> Self:
        if self.vision == "openvino" and not self.can_use_tower(self.engine):
            raise ValueError(
                "vision openvino is for guided decoding on a CPU without split_image; use auto or torch"
            )
        return self

    @model_validator(mode="after")
    def _leaves_to_the_server_what_is_its(self) -> Self:
        if self.engine != "server" or not self.enabled:
            return self
        if self.server.base_url is None:
            raise ValueError("server.base_url must be set with engine server")
        for name in ("gpus_per_actor", "dtype", "image_size_px", "split_image"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is the server's to decide: leave it out with engine server")
        return self


@dataclass(frozen=True, slots=True)
class ResolvedSmolVLM:
    """The checked model and prompt of a run, which are the same on every worker.

    Attributes:
        engine: What runs the model. "auto" is "guided" unless the tokenizer turns out not to suit it.
        model: The model's name in the settings.
        model_version: Commit on the hub, "sha256:" and the hash over a folder's files, or for a server what
            the settings call its version.
        prompt: Text of the prompt with the attributes filled in.
        prompt_sha256: SHA-256 of `prompt`.
        dtype: Arithmetic, with "auto" resolved; "" for a server.
        image_size_px: Side of a tile in pixels, with the model's default filled in; 0 if it isn't a SmolVLM.
        fingerprint: Hash of everything that changes an answer, which excludes batch size and actors.
        source: Folder or hub name from which the model is loaded, or the address of a server.
        revision: Commit to load from the hub; None for a folder and a server.
        tower_sha256: Digest of the network in `models/` that is the vision tower; None for torch's own.
        tower_arithmetic: Precision of its layers that aren't quantised.
    """

    engine: Literal["auto", "guided", "generate", "server"]
    model: str
    model_version: str
    prompt: str
    prompt_sha256: str
    dtype: Literal["float32", "bfloat16", "float16", ""]
    image_size_px: int
    fingerprint: str
    source: str
    revision: str | None
    tower_sha256: str | None = None
    tower_arithmetic: str = "float32"


def resolve_smolvlm(settings: SmolVLMSettings, schema: AttributeSchema) -> ResolvedSmolVLM:
    """Check the model and the prompt once, on the driver, before the run starts.

    Raises:
        ConfigError: The prompt can't be used, or the image size doesn't fit the model.
        WeightsError: The model is missing, unreachable or not a SmolVLM.
    """
    prompt = read_prompt(
        "smolvlm.prompt", settings.prompt, "smolvlm.txt", schema.prompt_text(), schema.prompt_uncertainty()
    )
    if "<image>" in prompt.text:
        raise ConfigError(
            f"smolvlm.prompt: {prompt.source} contains <image>; remove it, the crop follows the prompt anyway"
        )
    if settings.engine == "server":
        return _resolve_server(settings, schema, prompt)
    checkpoint = find_checkpoint("smolvlm.model", settings.model, settings.revision)
    kind = checkpoint.config.get("model_type")
    is_square = kind in GUIDED_ARCHITECTURES
    if settings.engine == "guided" and not is_square:
        raise WeightsError(
            f"smolvlm.model: {settings.model} is a {kind!r}, not a SmolVLM; use smolvlm.engine auto or "
            "generate"
        )
    engine = "generate" if settings.engine == "auto" and not is_square else settings.engine
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if settings.gpus_per_actor > 0 else "float32"
    content: dict[str, object] = {
        "decoder": _DECODER_VERSION,
        "model": checkpoint.version,
        "prompt": prompt.sha256,
        "schema": schema.sha256,
        "dtype": dtype,
        "reasoning": settings.reasoning_max_tokens if settings.reasoning else 0,
    }
    image_size_px = 0
    if is_square:
        image_size_px = _image_size(settings, checkpoint)
        content |= {"image_size_px": image_size_px, "split_image": settings.split_image}
        # These are left out where they are off, so that answers of versions without them stay valid.
        if settings.letterbox:
            content["letterbox"] = True
    elif settings.image_size_px is not None or settings.split_image:
        raise ConfigError(
            f"smolvlm.image_size_px and smolvlm.split_image: {settings.model} is a {kind!r}, whose processor "
            "decides how a crop is shown; leave them out"
        )
    if engine == "generate":
        content |= {"engine": "generate", "decoder": _GENERATE_VERSION}
    elif schema.rules:
        content["rules"] = [rule.text for rule in schema.rules]
    return ResolvedSmolVLM(
        engine=engine,
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


def _resolve_server(settings: SmolVLMSettings, schema: AttributeSchema, prompt: Prompt) -> ResolvedSmolVLM:
    read_server_key()  # a key that can't be one is said now
    if settings.server.base_url is None:
        raise ConfigError("smolvlm.server.base_url: must be set with smolvlm.engine=server")
    version = settings.revision or ""
    # The address is left out, because a server that has moved gives the same answers.
    content = {
        "engine": "server",
        "decoder": _SERVER_VERSION,
        "model": settings.model,
        "revision": version,
        "prompt": prompt.sha256,
        "schema": schema.sha256,
        "reasoning": settings.reasoning,
    }
    return ResolvedSmolVLM(
        engine="server",
        model=settings.model,
        model_version=version,
        prompt=prompt.text,
        prompt_sha256=prompt.sha256,
        dtype="",
        image_size_px=0,
        fingerprint=fingerprint_of(content),
        source=settings.server.base_url,
        revision=None,
    )


def _image_size(settings: SmolVLMSettings, checkpoint: Checkpoint) -> int:
    vision = checkpoint.config.get("vision_config", {})
    patch, scale = vision.get("patch_size", 32), checkpoint.config.get("scale_factor", 2)
    size: int = settings.image_size_px or vision.get("image_size", 224)
    if size // patch % scale:
        raise ConfigError(
            f"smolvlm.image_size_px: {size} gives {size // patch} patches of {patch} px per side, which is "
            f"not a multiple of the model's {scale}; take a multiple of {patch * scale}"
        )
    return size
