"""Pictures of persons and frames, cut from the input many at a time and kept on this machine for a while."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from actors.detect.crops import CropSettings, cut_person
from actors.errors import ShardUnavailableError, ShopframeError
from actors.read.frame_decoder import decode_frame
from actors.read.settings import InputSettings
from actors.storage import layout
from actors.storage.commit_record import CommitRecord, read_record
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.exchange.frame_files import frames_of, shown
from jobs.serving.picture_cache import PictureCache

_SHARDS_AT_ONCE = 4
_THUMBNAIL = CropSettings(padding=0.1, max_side_px=256, jpeg_quality=85)
_REMEMBERED_S = 60.0
"""Seconds for which a shard whose pictures can't be cut is not read again."""
_TROUBLE = (ShopframeError, *STORAGE_ERRORS)

Person = Mapping[str, Any]


class NoPictureError(Exception):
    """There is no picture; the message says why."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A picture to make: of a person with a box, or of the whole frame."""

    name: str
    frame_key: str
    bbox: tuple[float, ...] | None
    person_index: int = -1


class Pictures:
    """Makes pictures. Methods are called from one event loop, and work is done in threads.

    Args:
        store: The output.
        settings: How to read the input.
        storage: How to reach it.
        cache: Where pictures are kept.
    """

    def __init__(
        self, store: ObjectStore, settings: InputSettings, storage: StorageSettings, cache: PictureCache
    ) -> None:
        self._store = store
        self._settings = settings
        self._storage = storage
        self._cache = cache
        self._pool = ThreadPoolExecutor(_SHARDS_AT_ONCE, thread_name_prefix="pictures")
        self._pending: dict[str, asyncio.Future[bytes]] = {}
        self._gone: dict[str, tuple[float, str]] = {}
        self._etags: dict[str, str] = {}

    def forget(self) -> None:
        """Look again which input shards were detected in, and whether those that were gone are back."""
        self._etags.clear()
        self._gone.clear()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def prepare(self, persons: Sequence[Person]) -> None:
        """Begin to make thumbnails of persons, so that each shard is read once for all of them."""
        by_shard: defaultdict[str, list[_Wanted]] = defaultdict(list)
        for person in persons:
            by_shard[person["shard_id"]].append(_thumbnail(person))
        for shard_id, wanted in by_shard.items():
            self._begin(shard_id, wanted)

    async def thumbnail(self, person: Person) -> bytes:
        """Return the thumbnail of a person as JPEG.

        Raises:
            NoPictureError: It can't be made.
        """
        return await self._picture(person["shard_id"], _thumbnail(person))

    async def frame(self, person: Person) -> bytes:
        """Return the frame of a person in a format that browsers show.

        Raises:
            NoPictureError: It can't be read.
        """
        key = person["frame_key"]
        return await self._picture(person["shard_id"], _Wanted(_name(person, "frame"), key, None))

    async def _picture(self, shard_id: str, wanted: _Wanted) -> bytes:
        content = await asyncio.to_thread(self._cached, shard_id, wanted)
        if content is not None:
            return content
        if wanted.name not in self._pending:
            self._begin(shard_id, [wanted])
        return await asyncio.shield(self._pending[wanted.name])

    def _cached(self, shard_id: str, wanted: _Wanted) -> bytes | None:
        """Return a picture that was cut from the input in which the shard was detected, or None."""
        if shard_id not in self._etags:
            try:
                found = read_record(self._store, shard_id)
            except _TROUBLE:
                return None
            if found is None:
                return None
            self._etags[shard_id] = found[0].input.etag
        return self._cache.get(_path(wanted, self._etags[shard_id]))

    def _keep(self, record: CommitRecord, picture: _Wanted, content: bytes) -> None:
        self._etags[record.shard_id] = record.input.etag
        self._cache.put(_path(picture, record.input.etag), content)

    def _begin(self, shard_id: str, wanted: Sequence[_Wanted]) -> None:
        loop = asyncio.get_running_loop()
        new = [one for one in wanted if one.name not in self._pending]
        for one in new:
            future: asyncio.Future[bytes] = loop.create_future()
            # Nobody may wait for a picture that was only prepared.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._pending[one.name] = future

        def finish(name: str, result: bytes | str) -> None:
            future = self._pending.pop(name, None)
            if future is None or future.done():
                return
            if isinstance(result, bytes):
                future.set_result(result)
            else:
                future.set_exception(NoPictureError(result))

        def report(name: str, result: bytes | str) -> None:
            loop.call_soon_threadsafe(finish, name, result)

        def work() -> None:
            left = {one.name for one in new}
            reason = "it can't be made"
            try:
                for name, content in self._make(shard_id, new):
                    left.discard(name)
                    report(name, content)
            except NoPictureError as error:
                reason = str(error)
            finally:
                for name in left:
                    report(name, reason)

        if new:
            self._pool.submit(work)

    def _make(self, shard_id: str, wanted: Sequence[_Wanted]) -> Iterable[tuple[str, bytes]]:
        """Yield the pictures of a shard by name, in the order of the frames in the input."""
        left: defaultdict[str, list[_Wanted]] = defaultdict(list)
        for one in wanted:
            content = self._cached(shard_id, one)
            if content is not None:
                yield one.name, content
            else:
                left[one.frame_key].append(one)
        if not left:
            return
        at, reason = self._gone.get(shard_id, (0.0, ""))
        if at and time.monotonic() - at < _REMEMBERED_S:
            raise NoPictureError(reason)
        found = read_record(self._store, shard_id)
        if found is None:
            raise NoPictureError("its shard is not committed")
        try:
            for key, data in frames_of(found[0], set(left), self._settings, self._storage):
                for one, content in self._cut(left.pop(key), data):
                    self._keep(found[0], one, content)
                    yield one.name, content
            if left:
                raise ShardUnavailableError(f"{found[0].input.uri} no longer contains {min(left)}")
        except _TROUBLE as error:
            reason = str(error) if isinstance(error, ShopframeError) else storage_error_text(error)
            for one, content in self._committed(found[0], [one for of in left.values() for one in of]):
                left[one.frame_key].remove(one)
                self._keep(found[0], one, content)
                yield one.name, content
            if any(left.values()):
                self._gone[shard_id] = (time.monotonic(), reason)
                raise NoPictureError(reason) from error

    def _cut(self, wanted: Sequence[_Wanted], data: bytes) -> Iterable[tuple[_Wanted, bytes]]:
        image: np.ndarray | None = None
        for one in wanted:
            if one.bbox is None:
                yield one, shown(data)[0]
                continue
            image = decode_frame(data, self._settings.max_image_pixels) if image is None else image
            yield one, cut_person(image, one.bbox, _THUMBNAIL)

    def _committed(self, record: CommitRecord, wanted: Sequence[_Wanted]) -> Iterable[tuple[_Wanted, bytes]]:
        """Yield thumbnails made of crops that the output has kept."""
        entry = record.object("persons")
        by_key = {(one.frame_key, one.person_index): one for one in wanted if one.bbox is not None}
        if entry is None or not by_key:
            return
        try:
            with self._store.open(entry.path) as stream:
                table = pq.read_table(stream, columns=["frame_key", "person_index", "bbox", "crop"])
        except FileNotFoundError:
            return
        for row in table.to_pylist():
            one = by_key.get((row["frame_key"], row["person_index"]))
            # A later detection may have numbered other persons so.
            if one is not None and row["crop"] is not None and one.bbox == tuple(row["bbox"]):
                yield one, _scaled(row["crop"])


def _thumbnail(person: Person) -> _Wanted:
    bbox = tuple(person["bbox"])
    digest = hashlib.sha256(repr((bbox, _THUMBNAIL)).encode()).hexdigest()[:16]
    return _Wanted(_name(person, digest), person["frame_key"], bbox, person["person_index"])


def _name(person: Person, picture: str) -> str:
    """Return the name of a picture. The cache has a folder for each shard and frame."""
    return f"{person['shard_id']}/{layout.object_name(person['frame_key'])}/{picture}"


def _path(picture: _Wanted, etag: str) -> str:
    """Return the path of a picture in the cache. Another version of the input has other pictures."""
    return f"{picture.name}-{hashlib.sha256(etag.encode()).hexdigest()[:16]}"


def _scaled(crop: bytes) -> bytes:
    side = _THUMBNAIL.max_side_px
    sink = io.BytesIO()
    with Image.open(io.BytesIO(crop)) as image:
        image.thumbnail((side, side))
        image.convert("RGB").save(sink, "JPEG", quality=_THUMBNAIL.jpeg_quality)
    return sink.getvalue()
