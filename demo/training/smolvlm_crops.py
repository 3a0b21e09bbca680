"""Scenes to labelled crops, cut and scaled by the code that the job cuts and scales with."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from actors.attributes import AttributeSchema
from actors.detect.crops import CropSettings, cut_crop
from demo.scenes import generate_scenes
from demo.training.smolvlm_model import SIDE_PX

log = logging.getLogger(__name__)

_JITTER = 0.025
_JITTER_LIMIT = 0.06
"""Deviation of a drawn box's edges from the true ones, as shares of its sides: a detector's boxes are so."""


@dataclass(frozen=True, slots=True)
class CutPerson:
    """One person cut out of a scene.

    Attributes:
        crop: JPEG bytes, as the job would cut it.
        values: For each attribute of the schema, in order, the index of its true value.
    """

    crop: bytes
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LabelledCrops:
    """Crops at the model's input size, with their truth.

    Attributes:
        pixels: (crops, 3, side, side) uint8, RGB.
        values: (crops, attributes) int64, indices of the true values.
    """

    pixels: np.ndarray
    values: np.ndarray


def cut_people(seed: int, people: int, schema: AttributeSchema, jitter: bool) -> Iterator[CutPerson]:
    """Cut so many people out of as many scenes as it takes.

    Args:
        seed: Of the scenes, and of the jitter.
        people: How many.
        schema: Attributes whose truth is wanted; the scenes know those of the default schema.
        jitter: Whether boxes deviate from the true ones as a detector's do.
    """
    rng = np.random.default_rng([seed, 1])
    attributes = list(schema)
    settings = CropSettings()
    left = people
    for scene in generate_scenes(seed, people):
        height, width = scene.image.shape[:2]
        for person in scene.persons:
            box = np.asarray(person.bbox, np.float64) * (width, height, width, height)
            if jitter:
                moved = np.clip(rng.normal(0, _JITTER, 4), -_JITTER_LIMIT, _JITTER_LIMIT)
                box = box + moved * np.tile(box[2:] - box[:2], 2)
            truth = tuple(a.values.index(person.attributes[a.name]) for a in attributes)
            yield CutPerson(cut_crop(scene.image, box, settings), truth)
            left -= 1
            if not left:
                return


def render_crops(
    folder: Path, seeds: Sequence[int], people: int, schema: AttributeSchema, images: Any, workers: int
) -> LabelledCrops:
    """Cut people of several seeds and scale them to the model's input; what the folder has isn't redone.

    Clear the folder after a change of the drawing: the files are known by seed and number alone.

    Args:
        folder: Where the arrays are kept, one file a seed, made if missing.
        seeds: Of the scenes.
        people: How many of each seed.
        schema: The attributes.
        images: Image processor of the model, as `make_processor` has it.
        workers: Processes to draw with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"seed{seed}-people{people}-side{SIDE_PX}.npz" for seed in seeds]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        drawn = [
            pool.submit(_render_seed, path, seed, people, schema, images)
            for path, seed in zip(paths, seeds, strict=True)
            if not path.exists()
        ]
        for index, future in enumerate(drawn, start=1):
            future.result()
            log.info("drew %d of %d seeds", index, len(drawn))
    parts = [np.load(path) for path in paths]
    return LabelledCrops(
        np.concatenate([part["pixels"] for part in parts]), np.concatenate([part["values"] for part in parts])
    )


def _render_seed(path: Path, seed: int, people: int, schema: AttributeSchema, images: Any) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pixels = np.empty((people, 3, SIDE_PX, SIDE_PX), np.uint8)
    values = np.empty((people, len(list(schema))), np.int64)
    for index, person in enumerate(cut_people(seed, people, schema, jitter=True)):
        pixels[index] = scale_crop(person.crop, images)
        values[index] = person.values
    with path.with_suffix(".part").open("wb") as file:
        np.savez(file, pixels=pixels, values=values)
    path.with_suffix(".part").replace(path)


def scale_crop(crop: bytes, images: Any) -> np.ndarray:
    """A crop at the model's input size, (3, side, side) uint8, before it is normalised.

    The job hands the same to the model: one tile, its sides scaled apart, whatever the crop's shape.

    Args:
        crop: JPEG bytes.
        images: Image processor of the model.
    """
    image = Image.open(io.BytesIO(crop)).convert("RGB")
    scaled = images(
        [image],
        do_resize=False,
        do_image_splitting=False,
        do_rescale=False,
        do_normalize=False,
        return_tensors="np",
    )["pixel_values"]
    return np.asarray(scaled[0, 0], np.uint8)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """Uint8 to float32 in -1..1, as SmolVLM's image processor does: mean and deviation are 0.5 each."""
    return np.asarray(pixels, np.float32) / 127.5 - 1
