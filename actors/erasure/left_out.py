"""What an output remembers of erased persons, so that a later run leaves them out.

It remembers no names. Each file or folder of the input has objects under its salted digest. A frame is the
salted digest of its key, with the boxes of the persons that were erased and the salted digests of their
numbers, or with none if all persons of the frame were. The boxes are in clear, because a later detection
finds a person in a slightly different box. All persons before a time are one time.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from actors.boxes import SAME_PERSON_IOU, box_ious
from actors.corrections.decision import Box
from actors.corrections.matching import as_box
from actors.erasure.removal import without_persons
from actors.errors import OutputError, PreconditionError
from actors.records import Shard
from actors.shard_block import ShardBlock
from actors.storage import layout
from actors.storage.object_store import ObjectStore

_SAME_BOX_IOU = 0.99
"""Intersection over union from which two boxes are the same detection, up to the rounding of its numbers."""

_TIME = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Who is left out of a shard.

    Attributes:
        salt: The salt of the digests.
        frames: Digests of frames with the boxes of the erased persons, or None for all persons.
        before: Persons of frames before this time are left out.
        numbers: Digests of frame and number of the erased persons.
    """

    salt: bytes
    frames: Mapping[str, tuple[Box, ...] | None]
    before: datetime | None = None
    numbers: frozenset[str] = frozenset()

    def was_erased(self, frame_key: str, person_index: int) -> bool:
        """Return whether a person was erased under this number, alone or with the whole frame."""
        whole = self.frames.get(_digest(self.salt, frame_key), ()) is None
        return whole or _digest(self.salt, f"{frame_key}/{person_index}") in self.numbers

    def concerns(self, frame_key: str, captured_at: datetime | None) -> bool:
        """Return whether anybody was erased from a frame, which is then not drawn any more."""
        return self._is_too_old(captured_at) or _digest(self.salt, frame_key) in self.frames

    def erased(self, frame_key: str, captured_at: datetime | None, boxes: Sequence[Box]) -> list[bool]:
        """Return for each box of a frame whether the person in it was erased."""
        gone = self.frames.get(_digest(self.salt, frame_key), ())
        if gone is None or self._is_too_old(captured_at):
            return [True] * len(boxes)
        if not gone or not boxes:
            return [False] * len(boxes)
        ious = box_ious(boxes, gone)
        # Where the same detection is there again, others that overlap it are other persons. Otherwise, any of
        # them may be the erased one.
        wanted = np.where(ious.max(axis=0) >= _SAME_BOX_IOU, _SAME_BOX_IOU, SAME_PERSON_IOU)
        found: list[bool] = np.any(ious >= wanted, axis=1).tolist()
        return found

    def _is_too_old(self, captured_at: datetime | None) -> bool:
        return self.before is not None and captured_at is not None and captured_at < self.before


def place_of(shard: Shard) -> str:
    """Return the name of the file or folder of a shard's frames, however it is divided into shards."""
    name = layout.cut_id(shard.shard_id)
    if shard.format == "images":
        return re.sub(r"-[0-9a-f]{12}$", "", name)
    return re.sub(r"\.part-\d{5,}$", "", name) if shard.start or shard.stop is not None else name


def read_left_out(store: ObjectStore, shard: Shard, retained_since: datetime | None = None) -> LeftOut | None:
    """Return who is left out of a shard, or None if nobody is.

    Args:
        store: The output.
        shard: The shard.
        retained_since: Persons of frames before this time are left out too, by `output.retain_days`.

    Raises:
        OutputError: An object is not of this version.
        OSError: The store can't be read.
    """
    try:
        salt = store.read(layout.ERASURE_SALT)
    except FileNotFoundError:
        # Nobody was ever erased from the output.
        return None if retained_since is None else LeftOut(b"", {}, retained_since)
    frames: dict[str, tuple[Box, ...] | None] = {}
    numbers: set[str] = set()
    for info in store.list(layout.left_out_folder(_digest(salt, place_of(shard)))):
        try:
            for line in store.read(info.path).splitlines():
                content = json.loads(line)
                frame, bbox = content["frame"], content["bbox"]
                known = frames.get(frame, ())
                numbers.update(content.get("numbers", ()))
                frames[frame] = None if bbox is None or known is None else (*known, as_box(bbox))
        except (ValueError, TypeError, KeyError) as error:
            raise OutputError(
                f"{store.full(info.path)}: not what was erased, in the form of this version; restore it: "
                "without it, erased persons come back"
            ) from error
    times = [retained_since, *(_time_of(info.path) for info in store.list(layout.ERASED_BEFORE))]
    before = max((time for time in times if time is not None), default=None)
    return LeftOut(salt, frames, before, frozenset(numbers))


def remember(store: ObjectStore, shard: Shard, frames: Mapping[str, Mapping[int, Box] | None]) -> None:
    """Remember who was erased from a shard. What is known already is not written again.

    Args:
        store: The output.
        shard: The shard.
        frames: By frame key, the numbers of the erased persons with their boxes, or None for all persons.

    Raises:
        OSError: The store can't be written.
    """
    salt = _salt(store)
    found = read_left_out(store, shard)
    known = {} if found is None else found.frames
    lines = []
    for key, persons in frames.items():
        digest = _digest(salt, key)
        before = known.get(digest, ())
        if before is None:
            continue
        if persons is None:
            lines.append(json.dumps({"frame": digest, "bbox": None}))
            continue
        lines += [
            json.dumps({"frame": digest, "bbox": box, "numbers": [_digest(salt, f"{key}/{number}")]})
            for number, box in persons.items()
            if box not in before
        ]
    if lines:
        path = layout.new_left_out(_digest(salt, place_of(shard)))
        store.create(path, "".join(f"{line}\n" for line in lines).encode())


def remember_before(store: ObjectStore, time: datetime) -> None:
    """Remember that all persons before a time were erased. Raises OSError if the store can't be written."""
    _salt(store)
    path = f"{layout.ERASED_BEFORE}/{time.astimezone(UTC).strftime(_TIME)}"
    # An earlier erasure may have had the same time.
    with suppress(PreconditionError):
        store.create(path, b"all persons of frames before this time are erased\n")


def leave_out(block: ShardBlock, found: LeftOut | None) -> ShardBlock:
    """Return a detected block without erased persons, and without previews of frames that show them."""
    if found is None or block.frames is None or block.persons is None:
        return block
    rows = block.frames.select(["frame_key", "captured_at", "status"]).to_pylist()
    times = {row["frame_key"]: row["captured_at"] for row in rows if row["status"] == "ok"}
    gone = {
        (key, index)
        for key, persons in _by_frame(block.persons).items()
        for index, is_erased in zip(
            [index for index, _ in persons],
            found.erased(key, times.get(key), [box for _, box in persons]),
            strict=True,
        )
        if is_erased
    }
    drawn = {key: image for key, image in block.previews.items() if not found.concerns(key, times.get(key))}
    return replace(without_persons(block, gone), previews=drawn)


def _by_frame(persons: pa.Table) -> dict[str, list[tuple[int, Box]]]:
    found: dict[str, list[tuple[int, Box]]] = {}
    for row in persons.select(["frame_key", "person_index", "bbox"]).to_pylist():
        found.setdefault(row["frame_key"], []).append((row["person_index"], as_box(row["bbox"])))
    return found


def _salt(store: ObjectStore) -> bytes:
    with suppress(PreconditionError):
        store.create(layout.ERASURE_SALT, secrets.token_hex(32).encode())
    return store.read(layout.ERASURE_SALT)


def _digest(salt: bytes, name: str) -> str:
    return hashlib.sha256(salt + name.encode("utf-8", "surrogateescape")).hexdigest()


def _time_of(path: str) -> datetime | None:
    try:
        return datetime.strptime(path.rpartition("/")[2], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
