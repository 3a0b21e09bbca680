"""Annotate crops with one SmolVLM, in batches that fit into memory."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.attributes import AttributeSchema
from actors.errors import WeightsError
from actors.records import Annotation
from actors.smolvlm.answer_grammar import answer_grammar
from actors.smolvlm.settings import ResolvedSmolVLM, SmolVLMSettings

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from actors.smolvlm.guided_decoding import GuidedAnswer

log = logging.getLogger(__name__)

_GREY = (127, 127, 127)
"""Colour of the bars beside a letterboxed crop: about 0 after the processor's normalisation to -1..1."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A crop ready for the model: token ids of its prompt, and pixels, (tiles, 3, height, width) float32."""

    ids: tuple[int, ...]
    pixels: Tensor


class CropAnnotator:
    """Holds one model and annotates crops with it."""

    def __init__(self, settings: SmolVLMSettings, resolved: ResolvedSmolVLM, schema: AttributeSchema) -> None:
        """Load the model and run the shared part of the prompt.

        Raises:
            WeightsError: The files can't be loaded on this machine.
        """
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging as transformers_logging

        from actors.smolvlm.guided_decoding import GuidedDecoder
        from actors.smolvlm.key_values import GROUPED_ATTENTION
        from actors.smolvlm.reasoning import ReasoningWriter

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self._settings = settings
        self._batch_size = settings.batch_size
        device = "cuda" if settings.gpus_per_actor > 0 else "cpu"
        try:
            self._processor = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                resolved.source, revision=resolved.revision
            )
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                resolved.source,
                revision=resolved.revision,
                dtype=getattr(torch, resolved.dtype),
                attn_implementation={"text_config": GROUPED_ATTENTION, "vision_config": "sdpa"},
                output_loading_info=True,
            )
            model, loading = loaded
            model = model.to(device).eval()
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"smolvlm.model: {resolved.source} can't be loaded on this machine: {error}; if it is a "
                "folder, every worker must see it"
            ) from error
        if loading["missing_keys"]:
            # transformers initialises missing weights with random numbers and continues.
            missing = ", ".join(sorted(loading["missing_keys"])[:3])
            raise WeightsError(f"smolvlm.model: {resolved.source} lacks weights: {missing}")
        self._configure_processor(model, resolved.image_size_px)
        tokenizer = self._processor.tokenizer
        grammar = answer_grammar(schema, lambda text: tokenizer.encode(text, add_special_tokens=False))
        self._text = self._prompt_text(resolved.prompt)
        self._prefix = tokenizer.encode(self._text.partition("<image>")[0], add_special_tokens=False)
        vocabulary = model.lm_head.weight.shape[0]
        writer = (
            ReasoningWriter(tokenizer, vocabulary, settings.reasoning_max_tokens)
            if settings.reasoning
            else None
        )
        self._decoder = GuidedDecoder(model, grammar, self._prefix, writer)

    def annotate(
        self,
        crops: Sequence[bytes],
        answered: Callable[[int, Sequence[Annotation]], None] = lambda _start, _answers: None,
    ) -> list[Annotation]:
        """Annotate each crop.

        Args:
            crops: JPEGs of one person each.
            answered: Called after each batch with the position of its first crop and its annotations.

        Returns:
            One annotation per crop, in the same order. The outcome is "ok", or "error" if the crop can't be
            decoded or a single crop doesn't fit into memory.
        """
        found: list[Annotation | None] = [None] * len(crops)
        for start, prepared in self._prepare(crops):
            groups: dict[tuple[int, ...], list[int]] = {}
            for offset, item in enumerate(prepared):
                if isinstance(item, Annotation):
                    found[start + offset] = item
                else:
                    # All rows of a batch must have the same token ids; they differ only with tiles.
                    groups.setdefault(item.ids, []).append(offset)
            for ids, offsets in groups.items():
                pixels = [item.pixels for i in offsets if isinstance(item := prepared[i], _Prepared)]
                for offset, answer in zip(offsets, self._answer(ids, pixels), strict=True):
                    found[start + offset] = answer
            answered(start, [a for a in found[start : start + len(prepared)] if a is not None])
        return [annotation for annotation in found if annotation is not None]

    def _answer(self, ids: Sequence[int], pixels: Sequence[Tensor]) -> list[Annotation]:
        """Answer any number of crops with the same token ids, in batches that fit into memory."""
        import torch

        answers: list[Annotation] = []
        while len(answers) < len(pixels):
            batch = pixels[len(answers) : len(answers) + self._batch_size]
            decoded: list[GuidedAnswer] | None = None
            try:
                decoded = self._decoder.decode(ids[len(self._prefix) :], torch.stack(list(batch)))
            except (torch.OutOfMemoryError, MemoryError) as error:
                trouble = str(error)
            except RuntimeError as error:
                if not _is_cpu_out_of_memory(error):
                    raise
                trouble = str(error)
            if decoded is not None:
                answers += [
                    Annotation("ok", None, a.values, a.confidence, a.reasoning, a.distribution)
                    for a in decoded
                ]
                continue
            # This is outside the handler because a live traceback would keep the batch's tensors.
            self._decoder.release()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(batch) == 1:
                reason = (
                    f"out of memory on a single crop: {trouble.splitlines()[0] if trouble else 'no detail'}"
                )
                answers.append(Annotation("error", reason))
            else:
                self._batch_size = len(batch) // 2
                log.warning("out of memory with %d crops; batches now have %d", len(batch), self._batch_size)
        return answers

    def _prepare(self, crops: Sequence[bytes]) -> Iterator[tuple[int, list[_Prepared | Annotation]]]:
        """Yield each batch with the position of its first crop.

        The next batch is decoded while the caller works on the current one.
        """
        size = self._settings.batch_size
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="crops") as pool:
            ahead: list[Future[_Prepared | Annotation]] = []
            for start in range(0, len(crops), size):
                batch = ahead or [pool.submit(self._prepare_one, crop) for crop in crops[:size]]
                ahead = [pool.submit(self._prepare_one, c) for c in crops[start + size : start + 2 * size]]
                yield start, [future.result() for future in batch]

    def _prepare_one(self, crop: bytes) -> _Prepared | Annotation:
        from PIL import Image
        from PIL.JpegImagePlugin import JpegImageFile

        try:
            # Crops are always JPEGs written by Shopframe. Image.open would try every format, and in a process
            # that has imported ultralytics even tries to import decoders that aren't installed.
            with JpegImageFile(io.BytesIO(crop)) as opened:
                image = opened.convert("RGB")
        except SyntaxError:
            return Annotation("error", "the crop can't be decoded: not an image")
        except (OSError, ValueError, TypeError, Image.DecompressionBombError) as error:
            return Annotation("error", f"the crop can't be decoded: {error}")
        if self._settings.letterbox and not self._settings.split_image:
            image = letterboxed(image)
        inputs = self._processor(text=self._text, images=[image], return_tensors="pt")
        return _Prepared(tuple(inputs["input_ids"][0].tolist()), inputs["pixel_values"][0])

    def _configure_processor(self, model: Any, side_px: int) -> None:
        images = self._processor.image_processor
        tile = {"longest_edge": side_px}
        images.max_image_size = type(images.max_image_size)(**tile)
        images.do_image_splitting = self._settings.split_image
        # Without tiles, the crop is scaled directly to its square, not first to up to four times that size.
        images.do_resize = self._settings.split_image
        vision = model.config.vision_config
        self._processor.image_seq_len = (side_px // vision.patch_size // model.config.scale_factor) ** 2

    def _prompt_text(self, prompt: str) -> str:
        content = [{"type": "text", "text": prompt}, {"type": "image"}]
        text: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return text


def letterboxed(image: Image) -> Image:
    """Return the image in the middle of a grey square whose side is the image's longer one.

    transformers scales every image to a square, which makes a person of 170x512 pixels three times as wide.
    """
    from PIL import ImageOps

    side = max(image.size)
    return ImageOps.pad(image, (side, side), color=_GREY)


def _is_cpu_out_of_memory(error: RuntimeError) -> bool:
    # torch has no exception type for a failed allocation on the CPU.
    return "DefaultCPUAllocator" in str(error)
