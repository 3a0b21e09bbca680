"""Restore crops that were not kept: cut them from the source again, with identical bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from actors.detect.crops import CropSettings, cut_person
from actors.errors import CropRestoreError, FrameError, ShardError, ShardUnavailableError, StoreError
from actors.read.frame_decoder import decode_frame
from actors.read.frames import read_frames
from actors.read.listing import current_etag
from actors.read.settings import InputSettings
from actors.records import PERSONS_SCHEMA, Shard
from actors.shard_block import ShardBlock
from actors.storage.commit_record import CommitRecord
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text


@dataclass(frozen=True, slots=True)
class CropRestorer:
    """Cuts the crops of committed persons again.

    The new crops equal the first ones as long as the version of OpenCV is the same. Another JPEG encoder may
    give other bytes, and code that identifies crops by their digest then takes them for new crops.

    Attributes:
        input: How to read frames, and their limits.
        storage: How to reach the source.
        crops: How people are cut out.
        fingerprint: Fingerprint of the detect stage with these settings; None if the run never detected.
    """

    input: InputSettings
    storage: StorageSettings
    crops: CropSettings
    fingerprint: str | None

    def fill_crops(self, block: ShardBlock, record: CommitRecord) -> ShardBlock:
        """Return the block with a crop for every kept person.

        The source is read only if a crop is missing.

        Args:
            block: A block with its committed tables; its task names the source.
            record: The shard's commit record.

        Raises:
            CropRestoreError: The source is gone or has changed, or the shard was cut with other settings.
            StoreError: The source can't be read now.
            ValueError: The block has no persons yet.
        """
        if block.persons is None:
            raise ValueError(f"{record.shard_id}: crops can't be cut again before the persons are loaded")
        columns = block.persons.select(["frame_key", "bbox", "kept", "crop"]).to_pylist()
        missing: dict[str, list[int]] = defaultdict(list)
        for index, row in enumerate(columns):
            if row["kept"] and row["crop"] is None:
                missing[row["frame_key"]].append(index)
        if not missing:
            return block
        self._check_source(block.task.shard, record)
        crops = [row["crop"] for row in columns]
        try:
            for frame_key, data in self._frames(block.task.shard, missing):
                image = decode_frame(data, self.input.max_image_pixels)
                for index in missing.pop(frame_key):
                    crops[index] = cut_person(image, columns[index]["bbox"], self.crops)
        except (ShardError, ShardUnavailableError, FrameError) as error:
            raise _restore_error(str(error)) from error
        if missing:
            raise _restore_error(f"{block.task.shard.uri} no longer contains frame {min(missing)}")
        position = block.persons.schema.get_field_index("crop")
        filled = pa.array(crops, PERSONS_SCHEMA.field("crop").type)
        return replace(
            block, persons=block.persons.set_column(position, PERSONS_SCHEMA.field("crop"), filled)
        )

    def _frames(self, shard: Shard, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the key and content of the wanted frames, until the caller has emptied `wanted`."""
        for frame in read_frames(shard, self.input, self.storage):
            # A later frame with the same key has an error and no data.
            if frame.data is not None and frame.key in wanted:
                yield frame.key, frame.data
                if not wanted:
                    return

    def _check_source(self, shard: Shard, record: CommitRecord) -> None:
        if record.fingerprints.get("detect") != self.fingerprint:
            raise CropRestoreError(
                f"{shard.uri}: its crops were not kept, and its people were cut out with other settings than "
                "those of the last run; run shopframe annotate first"
            )
        try:
            etag = current_etag(shard, self.storage)
        except FileNotFoundError as error:
            raise _restore_error(f"{shard.uri} is no longer there") from error
        except STORAGE_ERRORS as error:
            raise StoreError(f"{shard.uri}: {storage_error_text(error)}") from error
        if etag != record.input.etag:
            raise _restore_error(f"{shard.uri} has changed since its people were detected")


def _restore_error(trouble: str) -> CropRestoreError:
    return CropRestoreError(
        f"{trouble}; its crops were not kept and must be cut again from it: restore it, or run shopframe "
        "annotate on the current input. With output.keep_crops: always the source is not needed again"
    )
