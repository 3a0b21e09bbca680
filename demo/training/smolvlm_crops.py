"""Turn scenes into labelled crops, which the job's own code cuts and scales."""

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
from actors.detect.crops import cut_crop
from actors.smolvlm.crop_pictures import letterboxed
from demo.scenes import generate_scenes
from demo.training.demo_settings import demo_settings
from demo.training.smolvlm_model import SIDE_PX

log = logging.getLogger(__name__)

_JITTER = 0.025
_JITTER_LIMIT = 0.06
"""Standard deviation and limit of the distance between a jittered box's edges and the true ones, as shares of
the box's sides. A detector's boxes deviate about as much."""


@dataclass(frozen=True, slots=True)
class CutPerson:
    """One person cut out of a scene.

    Attributes:
        crop: JPEG bytes, cut as the job would cut them.
        values: Index of the true value of each attribute, in the order of the schema.
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
    """Cut the given number of people out of as many scenes as needed.

    Args:
        seed: Seed of the scenes and of the jitter.
        people: Number of people.
        schema: Attributes to label; scenes only contain the attributes of the default schema.
        jitter: Whether boxes deviate from the true boxes as much as a detector's boxes do.
    """
    rng = np.random.default_rng([seed, 1])
    attributes = list(schema)
    settings = demo_settings().crops
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
    """Cut people out of the scenes of several seeds and scale them to the model's input size.

    Files that are already in the folder are reused. Their names only contain the seed, the number of
    people and the input size, so clear the folder after changing how scenes are drawn.

    Args:
        folder: Folder for the arrays, one file per seed; created if missing.
        seeds: Seeds of the scenes.
        people: Number of people for each seed.
        schema: The attributes.
        images: Image processor of the model, as in the result of `make_processor`.
        workers: Number of processes that draw.
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
    """Scale a crop to the model's input size, (3, side, side) uint8, without normalising it.

    The job scales crops in the same way with the demo's settings: to one tile, letterboxed if they say so.

    Args:
        crop: JPEG bytes.
        images: Image processor of the model.
    """
    image = Image.open(io.BytesIO(crop)).convert("RGB")
    if demo_settings().smolvlm.letterbox:
        image = letterboxed(image)
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
    """Normalise uint8 pixels to float32 in -1..1.

    SmolVLM's image processor does the same: its mean and standard deviation are both 0.5.
    """
    return np.asarray(pixels, np.float32) / 127.5 - 1
