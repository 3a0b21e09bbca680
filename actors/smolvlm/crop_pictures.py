"""From a crop's JPEG to the picture that a model is shown."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from actors.records import Annotation
from actors.smolvlm.settings import SmolVLMSettings

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

UNSCALED = {"do_rescale": False, "do_normalize": False, "do_pad": False}
"""Arguments with which the processor of a SmolVLM or Idefics3 returns the pixels of a crop's tiles as bytes,
which are a quarter of what a worker would otherwise keep ahead and send to a GPU."""

_GREY = (127, 127, 127)
"""Colour of the bars beside a letterboxed crop: about 0 after the processor's normalisation to -1..1."""


def decode_crop(crop: bytes) -> Image | Annotation:
    """Return the picture in RGB, or the annotation of a crop that can't be decoded."""
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        # Crops are always JPEGs written by Shopframe. Image.open would try every format, and in a process
        # that has imported ultralytics even tries to import decoders that aren't installed.
        with JpegImageFile(io.BytesIO(crop)) as opened:
            return opened.convert("RGB")
    except SyntaxError:
        return Annotation("error", "the crop can't be decoded: not an image")
    except (OSError, ValueError, TypeError, Image.DecompressionBombError) as error:
        return Annotation("error", f"the crop can't be decoded: {error}")


def in_its_square(image: Image, settings: SmolVLMSettings) -> Image:
    """Return the image as a SmolVLM or Idefics3 is shown it, which scales every tile to a square."""
    return letterboxed(image) if settings.letterbox and not settings.split_image else image


def letterboxed(image: Image) -> Image:
    """Return the image in the middle of a grey square whose side is the image's longer one.

    transformers scales every image to a square, which makes a person of 170x512 pixels three times as wide.
    """
    from PIL import ImageOps

    side = max(image.size)
    return ImageOps.pad(image, (side, side), color=_GREY)


def set_tiles(processor: Any, model: Any, side_px: int, split: bool) -> None:
    """Make the processor of a SmolVLM or Idefics3 show a crop as one tile, unless it is to be split.

    Args:
        processor: The processor, which is changed.
        model: The model.
        side_px: Side of a tile in pixels.
        split: Whether a large crop is also shown as up to 16 tiles.
    """
    images = processor.image_processor
    tile = {"longest_edge": side_px}
    images.max_image_size = type(images.max_image_size)(**tile)
    images.do_image_splitting = split
    # Without tiles, the crop is scaled directly to its square, not first to up to four times that size.
    images.do_resize = split
    vision = model.config.vision_config
    processor.image_seq_len = (side_px // vision.patch_size // model.config.scale_factor) ** 2


def normalised(pixels: Tensor, processor: Any) -> Tensor:
    """Return pixels as a SmolVLM or Idefics3 takes them, on their device.

    Args:
        pixels: (..., tiles, 3, height, width) uint8.
        processor: The model's processor, which says how.

    Returns:
        The same shape in float32.
    """
    images = processor.image_processor
    tiles = images.rescale_and_normalize(
        pixels.flatten(0, -4),
        images.do_rescale,
        images.rescale_factor,
        images.do_normalize,
        images.image_mean,
        images.image_std,
    )
    found: Tensor = tiles.float().view(pixels.shape)
    return found
