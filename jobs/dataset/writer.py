"""What the writers of all formats have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import cv2

from actors.attributes import AttributeSchema
from actors.detect.crops import CropSettings, cut_person
from actors.read.frame_decoder import decode_frame
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.dataset.final_persons import FinalFrame, FinalPerson
from jobs.exchange.frame_files import shown

_JPEG_QUALITY = 95


class Writer(ABC):
    """Writes one format.

    Attributes:
        what: What the data set has one of per sample, for people.
    """

    what: str

    def __init__(
        self,
        to: ObjectStore,
        attributes: AttributeSchema,
        crops: CropSettings,
        max_image_pixels: int,
        splits: Sequence[str],
    ) -> None:
        self.to = to
        self.attributes = attributes
        self.crops = crops
        self.max_image_pixels = max_image_pixels
        self.splits = splits

    @abstractmethod
    def persons_of(self, frame: FinalFrame) -> list[FinalPerson]:
        """Return the persons of a frame that belong to the data set."""

    def is_wanted(self, frame: FinalFrame) -> bool:
        """Return whether a frame belongs to the data set. A detector learns from empty ones too."""
        return self.what == "frame" or bool(self.persons_of(frame))

    @abstractmethod
    def make(self, split: str, frame: FinalFrame, data: bytes) -> Any:
        """Make what `add` needs of an encoded frame. Threads call it.

        Raises:
            FrameError: The frame can't be decoded.
            OSError: The data set can't be written.
        """

    @abstractmethod
    def add(self, split: str, frame: FinalFrame, made: Any) -> None:
        """Add a frame with what was made of it."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left."""

    def cut(self, frame: FinalFrame, data: bytes) -> list[bytes]:
        """Return the crop of each person of a frame, as a JPEG."""
        persons = self.persons_of(frame)
        if not persons:
            return []
        image = decode_frame(data, self.max_image_pixels)
        return [cut_person(image, person.box, self.crops) for person in persons]

    def write_image(self, split: str, frame: FinalFrame, data: bytes) -> str:
        """Write a frame into the folder of images, in a format that trainers read, and return its name."""
        content, ending = shown(data)
        if ending == "gif":
            pixels = decode_frame(data, self.max_image_pixels)
            _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            content, ending = encoded.tobytes(), "jpg"
        name = f"{image_stem(frame)}.{ending}"
        self.to.write(f"images/{split}/{name}", content)
        return name


def image_stem(frame: FinalFrame) -> str:
    """Return the name of a frame's file, without its ending."""
    return f"{frame.shard_id}.{layout.object_name(frame.frame_key)}"
