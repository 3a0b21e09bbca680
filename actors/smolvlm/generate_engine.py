"""The engine `generate`: any image-text-to-text model of transformers, kept to the schema by xgrammar.

Answers are written token by token, in batches that are padded on the left. Text that the schema forces is
written likewise, so this is several times slower than `guided`, but it asks nothing of the architecture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from actors.attributes import REASONING_KEY, AttributeSchema
from actors.errors import WeightsError
from actors.records import Annotation
from actors.smolvlm.crop_pictures import decode_crop, in_its_square, set_tiles
from actors.smolvlm.device_memory import batches_for
from actors.smolvlm.loaded_model import load_model
from actors.smolvlm.settings import GUIDED_ARCHITECTURES, ResolvedSmolVLM, SmolVLMSettings
from actors.smolvlm.value_confidences import certainty_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from actors.smolvlm.value_confidences import WrittenToken

_NOT_FOR_GENERATION = ("labels",)
"""What a processor returns for training."""

_LARGE_PX = 512
"""Longest side of a crop by default (`crops.max_side_px`)."""

_LONGEST_ESCAPE = len(r"\ud83d\ude00")


class GenerateEngine:
    """Holds one model and annotates crops with it."""

    def __init__(self, settings: SmolVLMSettings, resolved: ResolvedSmolVLM, schema: AttributeSchema) -> None:
        """Load the model, and compile the grammar for its tokenizer.

        Raises:
            WeightsError: The files can't be loaded on this machine, or the processor or the tokenizer is of
                an unknown kind.
        """
        from transformers import GenerationConfig

        from actors.smolvlm.schema_logits import SchemaGrammar

        self._settings = settings
        self._schema = schema
        self._model, self._processor = load_model(settings, resolved)
        self._is_square = self._model.config.model_type in GUIDED_ARCHITECTURES
        if self._is_square:
            set_tiles(self._processor, self._model, resolved.image_size_px, settings.split_image)
        tokenizer = self._processor.tokenizer
        stop_ids = _stop_ids(self._model, tokenizer)
        if not stop_ids:
            raise WeightsError(f"smolvlm.model: {resolved.source} names no token that ends an answer")
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
        try:
            self._text = self._prompt_text(resolved.prompt)
            picture_bytes = self._check_picture()
            self._grammar = SchemaGrammar(
                tokenizer,
                self._model.get_output_embeddings().weight.shape[0],
                stop_ids,
                schema,
                settings.reasoning_max_tokens if settings.reasoning else 0,
            )
        except Exception as error:
            raise WeightsError(
                f"smolvlm.model: {resolved.source} can't be used by engine generate: its processor or "
                f"tokenizer fails: {type(error).__name__}: {error}"
            ) from error
        self._batches = batches_for(settings, picture_bytes)
        # A checkpoint's own settings may ask for sampling or for penalties.
        self._model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=_most_tokens(schema, settings),
            pad_token_id=padding,
            eos_token_id=stop_ids,
            bos_token_id=tokenizer.bos_token_id,
        )

    def annotate(
        self,
        crops: Sequence[bytes],
        answered: Callable[[int, Sequence[Annotation]], None] = lambda _start, _answers: None,
    ) -> list[Annotation]:
        """Annotate each crop, as `CropEngine` says; batch by batch.

        The outcome is "ok", or "error" if a crop can't be decoded or doesn't fit into memory by itself.
        """
        found: list[Annotation] = []
        while len(found) < len(crops):
            start = len(found)
            decoded = [decode_crop(crop) for crop in crops[start : start + self._batches.size]]
            pictures = [item for item in decoded if not isinstance(item, Annotation)]
            answers = iter(self._batches.run(pictures, self._answer))
            batch = [item if isinstance(item, Annotation) else next(answers) for item in decoded]
            answered(start, batch)
            found += batch
        return found

    def _answer(self, pictures: Sequence[Image]) -> list[Annotation]:
        import torch

        from actors.smolvlm.schema_logits import SchemaLogits

        inputs = self._inputs(pictures)
        logits = SchemaLogits(self._grammar, len(pictures))
        with torch.inference_mode():
            ids = self._model.generate(**inputs, logits_processor=[logits])
        return [self._annotation(tokens) for tokens in logits.written(ids[:, inputs["input_ids"].shape[1] :])]

    def _annotation(self, tokens: Sequence[WrittenToken]) -> Annotation:
        text = b"".join(token.text for token in tokens).decode(errors="ignore")
        if self._settings.reasoning:
            text = _ended(text)
        try:
            # The grammar allows control characters in an explanation.
            document = json.loads(text, strict=False)
            values = self._schema.parse(document)
        except ValueError as error:
            return Annotation("invalid", f"not a valid answer: {error}")
        certainty = certainty_of(text, tokens, self._schema)
        reasoning = str(document[REASONING_KEY]).strip() if REASONING_KEY in document else None
        return Annotation("ok", None, values, certainty.confidence, reasoning, certainty.distribution)

    def _inputs(self, pictures: Sequence[Image]) -> Any:
        """Return the processor's inputs for a batch, on the model's device."""
        shown = [in_its_square(p, self._settings) for p in pictures] if self._is_square else pictures
        inputs = self._processor(
            text=[self._text] * len(shown),
            images=[[picture] for picture in shown],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        for name in _NOT_FOR_GENERATION:
            inputs.pop(name, None)
        return inputs.to(self._model.device, self._model.dtype)

    def _prompt_text(self, prompt: str) -> str:
        if not self._processor.chat_template:
            # PaliGemma, for example: the picture's token, then the question.
            return f"{getattr(self._processor, 'image_token', '<image>')}{prompt}"
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return text

    def _check_picture(self) -> int:
        """Check that the prompt shows a picture, which a template for text only would leave out.

        Returns:
            How many bytes the pixels of a large crop take in float32. A square has the most tiles.

        Raises:
            ValueError: It doesn't.
        """
        import torch
        from PIL import Image

        inputs = self._inputs([Image.new("RGB", (_LARGE_PX, _LARGE_PX))])
        if not any("pixel" in name or "image" in name for name in inputs):
            raise ValueError("the processor returns no picture")
        tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
        return 4 * sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    configured = model.generation_config.eos_token_id
    found = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*found, tokenizer.eos_token_id) if token is not None})


def _most_tokens(schema: AttributeSchema, settings: SmolVLMSettings) -> int:
    """Return the number of tokens that no answer exceeds: each token has at least one byte."""
    longest = {a.name: max(a.values, key=lambda value: len(json.dumps(value))) for a in schema}
    document = schema.nest(longest) | ({REASONING_KEY: ""} if settings.reasoning else {})
    written = len(json.dumps(document, ensure_ascii=False).encode()) + 1
    return written + (settings.reasoning_max_tokens if settings.reasoning else 0)


def _ended(text: str) -> str:
    """Return an answer whose explanation was cut with its end."""
    for cut in range(_LONGEST_ESCAPE + 1):
        candidate = text[: len(text) - cut]
        for end in ("", "}", '"}'):
            try:
                json.loads(candidate + end, strict=False)
            except json.JSONDecodeError:
                continue
            return candidate + end
    return text
