"""The engine `guided`: annotate crops with one SmolVLM, in batches that fit into memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.attributes import AttributeSchema
from actors.records import Annotation
from actors.smolvlm.answer_grammar import answer_grammar
from actors.smolvlm.crop_pictures import UNSCALED, decode_crop, in_its_square, normalised, set_tiles
from actors.smolvlm.device_memory import batches_for
from actors.smolvlm.fitting_batches import AHEAD, AHEAD_BYTES
from actors.smolvlm.loaded_model import load_model
from actors.smolvlm.settings import ResolvedSmolVLM, SmolVLMSettings
from actors.smolvlm.tokenization import check_tokenization

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from actors.smolvlm.guided_decoding import Vision


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A crop ready for the model: token ids of its prompt, and pixels, (tiles, 3, height, width) uint8."""

    ids: tuple[int, ...]
    pixels: Tensor


class GuidedEngine:
    """Holds one model and annotates crops with it.

    Attributes:
        model: The model, a SmolVLM of transformers in eval mode.
    """

    def __init__(self, settings: SmolVLMSettings, resolved: ResolvedSmolVLM, schema: AttributeSchema) -> None:
        """Load the model and run the shared part of the prompt.

        Raises:
            WeightsError: The files can't be loaded on this machine.
            TokenizationError: The tokenizer doesn't suit guided decoding.
        """
        from PIL import Image

        from actors.smolvlm.guided_decoding import GuidedDecoder
        from actors.smolvlm.key_values import GROUPED_ATTENTION
        from actors.smolvlm.reasoning import ReasoningWriter

        self._settings = settings
        attention = {"text_config": GROUPED_ATTENTION, "vision_config": "sdpa"}
        model, self._processor = load_model(settings, resolved, attn_implementation=attention)
        set_tiles(self._processor, model, resolved.image_size_px, settings.split_image)
        tokenizer = self._processor.tokenizer

        def tokenize(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False))

        grammar = answer_grammar(schema, tokenize)
        self._text = self._prompt_text(resolved.prompt)
        self._prefix = tokenize(self._text.partition("<image>")[0])
        # Of all shapes, a square has the most tiles.
        largest = self._with_prompt(Image.new("RGB", (64, 64)))
        self._ids, self._picture_bytes = largest.ids, largest.pixels.nbytes
        check_tokenization(schema, grammar, tokenize, self._prefix, largest.ids)
        vocabulary = model.lm_head.weight.shape[0]
        writer = (
            ReasoningWriter(tokenizer, vocabulary, settings.reasoning_max_tokens)
            if settings.reasoning
            else None
        )
        self.model = model
        self._decoder = GuidedDecoder(model, grammar, self._prefix, writer, settings.compile)
        self._batches = batches_for(settings, self._picture_bytes, self._decoder.release)

    def annotate(
        self,
        crops: Sequence[bytes],
        answered: Callable[[int, Sequence[Annotation]], None] = lambda _start, _answers: None,
    ) -> list[Annotation]:
        """Annotate each crop, as `CropEngine` says; batch by batch.

        The outcome is "ok", or "error" if a crop can't be decoded or doesn't fit into memory by itself.
        """
        found: list[Annotation] = []
        for start, prepared in self._prepare(crops):
            answers = self._answer_all(prepared)
            found += answers
            answered(start, answers)
        return found

    @property
    def vision(self) -> Vision:
        """What turns pictures into features: at first, the model's own vision tower."""
        return self._decoder.vision

    @vision.setter
    def vision(self, vision: Vision) -> None:
        self._decoder.vision = vision

    def pictures(self, crops: Sequence[bytes]) -> list[Tensor]:
        """Return the pixels of the crops that can be decoded, each (tiles, 3, height, width) float32.

        They are normalised as the model takes them.
        """
        prepared = [self._prepare_one(crop) for crop in crops]
        return [normalised(item.pixels, self._processor) for item in prepared if isinstance(item, _Prepared)]

    def _answer_all(self, prepared: Sequence[_Prepared | Annotation]) -> list[Annotation]:
        """Return the annotation of each crop of a batch."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for offset, item in enumerate(prepared):
            if isinstance(item, _Prepared):
                # All rows of a batch must have the same token ids; they differ only with tiles.
                groups.setdefault(item.ids, []).append(offset)
        found = dict(enumerate(prepared))
        for ids, offsets in groups.items():
            pixels = [item.pixels for i in offsets if isinstance(item := prepared[i], _Prepared)]
            found |= zip(offsets, self._answer(ids, pixels), strict=True)
        return [item for item in found.values() if isinstance(item, Annotation)]

    def _answer(self, ids: Sequence[int], pixels: Sequence[Tensor]) -> list[Annotation]:
        """Answer any number of crops with the same token ids, in batches that fit into memory."""
        import torch

        def decode(batch: Sequence[Tensor]) -> list[Annotation]:
            crops = list(batch)
            if self._settings.compile:
                crops += crops[-1:] * (self._batches.size - len(crops))
            shown = normalised(torch.stack(crops).to(self.model.device), self._processor)
            if self._settings.gpus_per_actor:
                # They stay on the GPU until the batch is answered, and the model takes no more digits.
                shown = shown.to(self.model.dtype)
            decoded = self._decoder.decode(ids[len(self._prefix) :], shown)[: len(batch)]
            return [
                Annotation("ok", None, a.values, a.confidence, a.reasoning, a.distribution) for a in decoded
            ]

        return self._batches.run(pixels, decode)

    def _prepare(self, crops: Sequence[bytes]) -> Iterator[tuple[int, list[_Prepared | Annotation]]]:
        """Yield each batch with the position of its first crop, and empty it afterwards.

        Some of the next batch is prepared while the caller works on the current one. A batch is emptied
        before more is prepared, so that the pixels of two batches are never there together.
        """
        import torch

        # On a CPU, the model needs the cores itself.
        threads = max(2, torch.get_num_threads()) if self._settings.gpus_per_actor else 2
        with ThreadPoolExecutor(threads, thread_name_prefix="crops") as pool:
            waiting: deque[Future[_Prepared | Annotation]] = deque()
            start = begun = 0
            while start < len(crops):
                size = self._batches.size
                until = start + size + min(size, AHEAD, AHEAD_BYTES // self._picture_bytes)
                waiting.extend(pool.submit(self._prepare_one, crop) for crop in crops[begun:until])
                begun = max(begun, min(until, len(crops)))
                batch = [waiting.popleft().result() for _ in range(min(size, len(waiting)))]
                answered = start + len(batch)
                yield start, batch
                batch.clear()
                start = answered

    def _prepare_one(self, crop: bytes) -> _Prepared | Annotation:
        import torch

        image = decode_crop(crop)
        if isinstance(image, Annotation):
            return image
        image = in_its_square(image, self._settings)
        if self._settings.split_image:
            return self._with_prompt(image)
        # The prompt is the same for all crops, and so are its tokens.
        tiles = self._processor.image_processor([[image]], **UNSCALED)["pixel_values"][0]
        return _Prepared(self._ids, torch.stack(tiles))

    def _with_prompt(self, image: Image) -> _Prepared:
        """Prepare a picture and its prompt, whose tokens depend on the tiles."""
        import torch

        inputs = self._processor(text=self._text, images=[image], images_kwargs=UNSCALED)
        return _Prepared(tuple(inputs["input_ids"][0]), torch.stack(inputs["pixel_values"][0]))

    def _prompt_text(self, prompt: str) -> str:
        content = [{"type": "text", "text": prompt}, {"type": "image"}]
        text: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return text
