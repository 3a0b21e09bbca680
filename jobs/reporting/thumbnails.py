"""Thumbnails of persons, cut from the input again, shard by shard and several shards at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow.parquet as pq

from actors.corrections.decision import Box
from actors.detect.crops import CropSettings, cut_person
from actors.errors import FrameError, ShardError, ShardUnavailableError, StoreError
from actors.read.frame_decoder import decode_frame
from actors.read.settings import InputSettings
from actors.storage.commit_record import CommitRecord, read_record
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from jobs.exchange.frame_files import frames_of
from jobs.run.run_record import RunRecord

_SHARDS_AT_ONCE = 4
_THUMBNAIL = CropSettings(padding=0.05, max_side_px=160, jpeg_quality=80)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A person to show.

    Attributes:
        name: Unique name of the picture.
        frame_key: The frame.
        person_index: Number of the person in the frame.
        box: Where the person is, normalised to 0..1.
    """

    name: str
    frame_key: str
    person_index: int
    box: Box


@dataclass(frozen=True, slots=True)
class ShardThumbnails:
    """The thumbnails of one shard as JPEG by name, and why others are missing or come from kept crops."""

    shard_id: str
    pictures: dict[str, bytes]
    trouble: str | None = None


def cut_thumbnails(
    store: ObjectStore, run: RunRecord, wanted: Mapping[str, Sequence[Wanted]]
) -> Iterator[ShardThumbnails]:
    """Yield the thumbnails of each shard. Where the input is gone, crops that the output has kept are used.

    Args:
        store: The output.
        run: Its last run, which says how to read the input.
        wanted: Persons by shard.
    """
    inputs = run.section("input", InputSettings)

    def cut(item: tuple[str, Sequence[Wanted]]) -> ShardThumbnails:
        shard_id, persons = item
        found = read_record(store, shard_id)
        if found is None:
            return ShardThumbnails(shard_id, {}, "it is no longer committed")
        pictures, trouble = _from_input(found[0], persons, inputs, store.settings)
        missing = [person for person in persons if person.name not in pictures]
        if missing:
            pictures |= _from_kept_crops(store, found[0], missing)
        return ShardThumbnails(shard_id, pictures, trouble)

    yield from map_ahead(cut, wanted.items(), _SHARDS_AT_ONCE)


def _from_input(
    record: CommitRecord, persons: Sequence[Wanted], inputs: InputSettings, storage: StorageSettings
) -> tuple[dict[str, bytes], str | None]:
    by_frame: defaultdict[str, list[Wanted]] = defaultdict(list)
    for person in persons:
        by_frame[person.frame_key].append(person)
    left, trouble = set(by_frame), None
    pictures: dict[str, bytes] = {}
    try:
        for key, data in frames_of(record, left, inputs, storage):
            try:
                image = decode_frame(data, inputs.max_image_pixels)
                pictures |= {one.name: cut_person(image, one.box, _THUMBNAIL) for one in by_frame[key]}
            except FrameError as error:
                trouble = f"{key}: {error}"
    except (ShardError, ShardUnavailableError, StoreError) as error:
        return pictures, str(error)
    if left:
        trouble = f"{record.input.uri} no longer contains {min(left)}"
    return pictures, trouble


def _from_kept_crops(store: ObjectStore, record: CommitRecord, persons: Sequence[Wanted]) -> dict[str, bytes]:
    entry = record.object("persons")
    if entry is None:
        return {}
    names = {(person.frame_key, person.person_index): person.name for person in persons}
    with store.open(entry.path) as stream:
        table = pq.read_table(stream, columns=["frame_key", "person_index", "crop"])
    keys = zip(table["frame_key"].to_pylist(), table["person_index"].to_pylist(), strict=True)
    found = {}
    for key, crop in zip(keys, table["crop"], strict=True):
        if key in names and crop.is_valid:
            image = cv2.imdecode(np.frombuffer(crop.as_py(), np.uint8), cv2.IMREAD_COLOR)
            if image is not None:
                found[names[key]] = cut_person(image, (0, 0, 1, 1), _THUMBNAIL)
    return found
