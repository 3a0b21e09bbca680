"""Measure what the margin of a crop keeps in it, and what margin and shape do to answers.

The people are those of the demo's scenes, whose truth is known. The demo's detector finds them. The first
table says how many of the true boxes, which include hats, lie completely within the crop, and how many lose
something at the top. The second one asks the demo's SmolVLM, which was trained on crops of one margin and
shape, about the same people in crops of others.

    python -m benchmarks.crops [--frames 200] [--seed 6000] [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou

from actors.detect.crops import CropSettings, cut_crop
from actors.detect.person_detector import PersonDetector
from actors.detect.settings import resolve_detector
from actors.smolvlm.guided_engine import GuidedEngine
from actors.smolvlm.settings import resolve_smolvlm
from benchmarks.figures import Figures
from demo.scenes import generate_scenes
from demo.training.demo_settings import demo_schema, demo_settings
from demo.training.smolvlm_accuracy import accuracy

MARGINS = (0.0, 0.05, 0.1, 0.15)
_MATCH_IOU = 0.5


@dataclass(frozen=True, slots=True)
class FoundPerson:
    """A person that the detector has found.

    Attributes:
        image: The frame, (height, width, 3) uint8, BGR.
        box_px: The detected box: x1, y1, x2, y2 in pixels.
        true_px: The true box, likewise.
        values: Index of the true value of each attribute.
    """

    image: np.ndarray
    box_px: np.ndarray
    true_px: np.ndarray
    values: tuple[int, ...]


def found_people(seed: int, frames: int) -> Iterator[FoundPerson]:
    """Yield every person of some scenes with the detected box that matches best, if any does."""
    settings = demo_settings()
    schema = demo_schema()
    detector = PersonDetector(settings.detector, resolve_detector(settings.detector, settings.storage))
    for scene in generate_scenes(seed, frames):
        height, width = scene.image.shape[:2]
        [boxes] = detector.detect([scene.image])
        for person in scene.persons:
            true_px = np.asarray(person.bbox, np.float64) * (width, height, width, height)
            ious = box_iou(torch.from_numpy(true_px[None]), torch.from_numpy(boxes[:, :4]).double())[0]
            if len(ious) and float(ious.max()) >= _MATCH_IOU:
                values = tuple(a.values.index(person.attributes[a.name]) for a in schema)
                yield FoundPerson(scene.image, boxes[int(ious.argmax()), :4], true_px, values)


def kept_shares(people: list[FoundPerson], margin: float) -> tuple[float, float]:
    """Return the share of people completely within their crops, and of those who are cut at the top."""
    whole, cut = [], []
    for person in people:
        size = np.tile(person.box_px[2:] - person.box_px[:2], 2)
        crop = person.box_px + margin * size * (-1, -1, 1, 1)
        # A crop is rounded outwards to whole pixels.
        inside = (np.floor(crop[:2]) <= person.true_px[:2]) & (np.ceil(crop[2:]) >= person.true_px[2:])
        whole.append(bool(inside.all()))
        cut.append(bool(np.floor(crop[1]) > person.true_px[1]))
    return float(np.mean(whole)), float(np.mean(cut))


def answer_shares(people: list[FoundPerson], margin: float, letterbox: bool) -> tuple[float, float, float]:
    """Return the mean and the lowest share of right answers over the attributes, and the error of the age."""
    schema = demo_schema()
    settings = demo_settings().smolvlm.model_copy(update={"letterbox": letterbox, "batch_size": 32})
    annotator = GuidedEngine(settings, resolve_smolvlm(settings, schema), schema)
    crops = [cut_crop(p.image, p.box_px, CropSettings(padding=margin)) for p in people]
    answers = [answer.values for answer in annotator.annotate(crops)]
    found = accuracy(answers, np.array([p.values for p in people]), schema)
    years = found.pop("exact_age")
    return float(np.mean(list(found.values()))), min(found.values()), years


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--seed", type=int, default=6_000, help="seed of scenes that no model was trained on")
    parser.add_argument("--quick", action="store_true", help="look at 8 frames only, to check that it runs")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    people = list(found_people(given.seed, 8 if given.quick else given.frames))
    figures = Figures("crops", given.quick)
    print(f"{len(people)} people found by the demo's detector")
    print("margin   completely in the crop   cut at the top")
    for margin in MARGINS:
        whole, cut = kept_shares(people, margin)
        print(f"{margin:6.2f}   {whole:22.3f}   {cut:14.3f}")
        if margin == CropSettings().padding:
            note = f"at the default margin, {margin}"
            figures.add("people completely in their crop", 100 * whole, "%", note=note)
    print("margin   shape         right, mean   right, lowest   years off")
    for letterbox in (True, False):
        for margin in (0.05, 0.1):
            mean, lowest, years = answer_shares(people, margin, letterbox)
            shape = "letterboxed" if letterbox else "stretched"
            print(f"{margin:6.2f}   {shape:11}   {mean:11.3f}   {lowest:13.3f}   {years:9.2f}")


if __name__ == "__main__":
    main()
