"""Frames with the boxes of persons: the layouts of YOLO and COCO."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from jobs.dataset.final_persons import FinalFrame, FinalPerson
from jobs.dataset.writer import Writer, image_stem
from jobs.exchange.regions import PERSON

_CATEGORIES = [{"id": 1, "name": PERSON, "supercategory": ""}]


class YoloWriter(Writer):
    """The layout of ultralytics: `images/<split>`, `labels/<split>` and `data.yaml`.

    Source: `https://docs.ultralytics.com/datasets/detect/`. A line of a label is the class and the centre,
    width and height of the box, in shares of the frame. A frame without a line has no person.
    """

    what = "frame"

    def persons_of(self, frame: FinalFrame) -> list[FinalPerson]:
        """Return all persons: one without a box would be taught as background."""
        return list(frame.persons)

    def make(self, split: str, frame: FinalFrame, data: bytes) -> Any:
        """Write the image and its label."""
        self.write_image(split, frame, data)
        lines = []
        for person in frame.persons:
            x1, y1, x2, y2 = person.box
            lines.append(f"0 {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
        self.to.write(f"labels/{split}/{image_stem(frame)}.txt", "".join(lines).encode())

    def add(self, split: str, frame: FinalFrame, made: Any) -> None:
        """Do nothing: a frame is in files of its own."""

    def finish(self) -> None:
        """Write the description that is given to `yolo train data=...`. Its folder is that of the images."""
        described = {split: f"images/{split}" for split in self.splits} | {"names": {0: PERSON}}
        self.to.write("data.yaml", yaml.safe_dump(described, sort_keys=False).encode())


class CocoWriter(Writer):
    """The layout of COCO: `images/<split>` and `annotations/instances_<split>.json`, with `attributes`."""

    what = "frame"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._folder = tempfile.TemporaryDirectory()
        self._counts: defaultdict[Path, int] = defaultdict(int)

    def persons_of(self, frame: FinalFrame) -> list[FinalPerson]:
        """Return all persons: one without a box would be taught as background."""
        return list(frame.persons)

    def make(self, split: str, frame: FinalFrame, data: bytes) -> Any:
        """Write the image, and return its name."""
        return self.write_image(split, frame, data)

    def add(self, split: str, frame: FinalFrame, made: Any) -> None:
        """Add the image and its persons."""
        size = {"width": frame.width, "height": frame.height}
        time = None if frame.captured_at is None else frame.captured_at.isoformat()
        seen = {"camera": frame.camera, "date_captured": time}
        (image,) = self._append(split, "images", [{"file_name": made, **size, **seen}])
        annotations = []
        for person in frame.persons:
            x1, y1, x2, y2 = person.box
            box = [x1 * frame.width, y1 * frame.height, (x2 - x1) * frame.width, (y2 - y1) * frame.height]
            said = {name: label.value for name, label in person.labels.items()}
            sources = {name: label.source for name, label in person.labels.items()}
            annotations.append(
                {
                    "image_id": image,
                    "category_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [],
                    "attributes": {"person_id": person.person_id, **said},
                    "sources": sources,
                }
            )
        self._append(split, "annotations", annotations)

    def finish(self) -> None:
        """Put the images and annotations of each split together."""
        whole = Path(self._folder.name) / "instances.json"
        for split in self.splits:
            with whole.open("wb") as file:
                file.write(b'{"info": {"description": "Persons, from Shopframe"}, "licenses": [],')
                file.write(f' "categories": {json.dumps(_CATEGORIES)}'.encode())
                for kind in ("images", "annotations"):
                    file.write(f', "{kind}": ['.encode())
                    part = self._part(split, kind)
                    if part.exists():
                        with part.open("rb") as lines:
                            shutil.copyfileobj(lines, file)
                    file.write(b"]")
                file.write(b"}")
            self.to.upload(f"annotations/instances_{split}.json", whole)
        self._folder.cleanup()

    def _part(self, split: str, kind: str) -> Path:
        """Return a file on this disk, in which entries wait: those of all frames may not fit into memory."""
        return Path(self._folder.name) / f"{split}-{kind}"

    def _append(self, split: str, kind: str, entries: Sequence[dict[str, Any]]) -> list[int]:
        """Add entries to those that wait, and return their ids."""
        part = self._part(split, kind)
        ids = []
        with part.open("a", encoding="utf-8") as file:
            for entry in entries:
                self._counts[part] += 1
                ids.append(self._counts[part])
                before = ",\n" if self._counts[part] > 1 else "\n"
                file.write(before + json.dumps({"id": ids[-1], **entry}, ensure_ascii=False))
        return ids
