"""Read the frames of committed previews again, to draw them with answers that came later."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass

from actors.errors import ShopframeError
from actors.read.frames import read_frames
from actors.read.listing import current_etag
from actors.read.settings import InputSettings
from actors.shard_block import ShardBlock
from actors.storage import layout
from actors.storage.commit_record import CommitRecord, CommittedObject
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import STORAGE_ERRORS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreviewFrames:
    """Reads frames of shards that were detected before.

    Attributes:
        input: How to read frames, and their limits.
        storage: How to reach the source.
    """

    input: InputSettings
    storage: StorageSettings

    def read(self, block: ShardBlock, record: CommitRecord) -> dict[str, bytes]:
        """Return the encoded images of the frames that a shard has previews of, by frame key.

        Previews aren't worth a failure: where the source is gone, has changed or can't be read now, nothing
        is returned.

        Args:
            block: A block with the table of frames; its task names the source.
            record: The shard's commit record.
        """
        keys = [] if block.frames is None else block.frames["frame_key"].to_pylist()
        wanted = {key for key in keys if previews_of(record, [key])} if _has_previews(record) else set()
        shard = block.task.shard
        found: dict[str, bytes] = {}
        if not wanted:
            return found
        try:
            if current_etag(shard, self.storage) != record.input.etag:
                return {}
            for frame in read_frames(shard, self.input, self.storage):
                # A later frame with the same key has an error and no data.
                if frame.data is not None and frame.key in wanted:
                    found[frame.key] = frame.data
                    if len(found) == len(wanted):
                        break
        except (ShopframeError, *STORAGE_ERRORS) as error:
            log.warning("%s: its previews are not drawn again: %s", shard.shard_id, error)
            return {}
        return found


def previews_of(record: CommitRecord, frames: Collection[str]) -> list[CommittedObject]:
    """Return the previews of some frames of a shard."""
    names = {layout.object_name(key) for key in frames}
    shape = re.compile(rf"{layout.PREVIEWS}/{re.escape(record.shard_id)}\.\d{{3,}}-[0-9a-f]{{8}}\.(.+)\.jpg")
    matches = ((entry, shape.fullmatch(entry.path)) for entry in record.objects)
    return [entry for entry, match in matches if match is not None and match[1] in names]


def _has_previews(record: CommitRecord) -> bool:
    return any(entry.kind == "preview" for entry in record.objects)
