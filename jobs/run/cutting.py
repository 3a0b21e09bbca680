"""Cut video files into WebDataset tars of frames, each with its camera and time."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from actors.errors import InputError, OutputError, ShardError
from actors.read.file_names import VIDEO_EXTENSIONS, clean_text, is_video
from actors.read.key_pattern import KeyFacts, compile_pattern
from actors.read.listing import by_folder
from actors.read.settings import InputSettings
from actors.storage import layout
from actors.storage.object_info import ObjectInfo
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.run.key_sample import no_match
from jobs.run.packing import add_member
from jobs.run.video import Video
from jobs.run.words import counted

_MANIFESTS = "_cut"
_JPEG_QUALITY = 95
_READ_AHEAD: dict[str, Any] = {"cache_type": "readahead", "block_size": 8 * 2**20}


@dataclass(frozen=True, slots=True)
class Picking:
    """Which frames of a video become frames of a shard.

    Attributes:
        every_s: Seconds from one frame to the next.
        scene_change: Score of a change, 0 to 1, above which a frame is picked instead; None for `every_s`.
    """

    every_s: float = 5.0
    scene_change: float | None = None


class Manifest(BaseModel):
    """The file `_cut/<video>.json`, which is written after a video's tars and proves that they are complete.

    Attributes:
        video: Path of the video below the folder that was cut.
        uri: Where the video was.
        source_sha256: Hash of the video's identity and of everything that its tars depend on.
        tars: Names and sizes of its tars.
        frames: Number of frames in them.
        camera: Camera that took the video.
        started_at: Time of its first frame in UTC, ISO 8601.
        error: What was wrong with the video. Its tars have the frames that could be decoded.
    """

    model_config = ConfigDict(frozen=True)

    video: str
    uri: str
    source_sha256: str
    tars: dict[str, int]
    frames: int
    camera: str | None = None
    started_at: str | None = None
    error: str | None = None


@dataclass(slots=True)
class CutSummary:
    """The result of `cut_videos`.

    Attributes:
        videos_cut: Number of videos cut by this run.
        videos_skipped: Number of videos that were already cut in the same way.
        tars: Number of tars of all videos.
        frames: Number of frames in them.
        broken: Path and error for each video in which something was wrong.
        without_camera: Number of videos that name no camera.
        without_time: Number of videos that name no start time.
    """

    videos_cut: int = 0
    videos_skipped: int = 0
    tars: int = 0
    frames: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    without_camera: int = 0
    without_time: int = 0

    def add(self, manifest: Manifest, cut: bool) -> None:
        """Count one video."""
        self.videos_cut += cut
        self.videos_skipped += not cut
        self.tars += len(manifest.tars)
        self.frames += manifest.frames
        self.without_camera += manifest.camera is None
        self.without_time += manifest.started_at is None
        if manifest.error is not None:
            self.broken.append((manifest.video, manifest.error))


def cut_videos(
    videos_uri: str,
    output_uri: str,
    settings: InputSettings,
    storage: StorageSettings,
    picking: Picking,
    *,
    frames_per_shard: int = 2000,
    max_shard_bytes: int = 200 * 2**20,
    report: Callable[[Manifest], None] = lambda _: None,
) -> CutSummary:
    """Cut every video under a folder into `<video>-00000.tar` and so on.

    A frame's key is the path of the video, followed by the milliseconds since its first frame. Its sidecar
    has `camera` and `captured_at`: from `input.key_pattern`, compared with the video's path, else from the
    file's own tags. A rerun cuts only videos that are new, changed or unfinished. A video that can't be read
    or ends early is recorded with the reason and isn't tried again until it changes.

    Args:
        videos_uri: Folder, bucket prefix or file.
        output_uri: Where the tars are written.
        settings: The pattern and the time zone.
        storage: Storage settings for both.
        picking: Which frames are taken.
        frames_per_shard: Maximum number of frames per tar.
        max_shard_bytes: Size of the images in a tar from which the next one begins.
        report: Is called with each video that was cut now.

    Raises:
        InputError: If there are no videos, or they can't be listed.
        ConfigError: If there is a pattern and no video matches it.
        OutputError: If the output has the frames of another video of the same name, or a store fails. What is
            complete stays, and a rerun goes on.
    """
    source, videos = _list_videos(videos_uri, storage)
    if not videos:
        raise InputError(
            f"{videos_uri}: holds no videos ({' '.join(sorted(VIDEO_EXTENSIONS))}); check --videos"
        )
    _refuse_pattern_without_match(source, videos, settings)
    cutter = _Cutter(
        source, ObjectStore(output_uri, storage), settings, picking, frames_per_shard, max_shard_bytes
    )
    summary = CutSummary()
    try:
        for video in videos:
            manifest, is_new = cutter.cut(video)
            summary.add(manifest, is_new)
            if is_new:
                report(manifest)
    except STORAGE_ERRORS as error:
        raise OutputError(
            f"{videos_uri} to {output_uri}: {storage_error_text(error)}; "
            f"{counted(summary.videos_cut, 'video')} cut before, and the same command goes on with the others"
        ) from error
    return summary


def _list_videos(uri: str, storage: StorageSettings) -> tuple[ObjectStore, list[ObjectInfo]]:
    store = ObjectStore(uri, storage)
    try:
        if not store.is_folder() and store.exists(""):
            parent, name = store.parent()
            return parent, [parent.info(name)]
        found = [info for _, infos in by_folder(store.list()) for info in infos if is_video(info.path)]
    except STORAGE_ERRORS as error:
        raise InputError(f"{uri}: can't be listed: {storage_error_text(error)}") from error
    return store, found


def _refuse_pattern_without_match(
    source: ObjectStore, videos: list[ObjectInfo], settings: InputSettings
) -> None:
    if settings.key_pattern is None:
        return
    paths = [clean_text(source.uri_of(video.path)) for video in videos]
    pattern = compile_pattern(settings.key_pattern)
    if all(pattern.read(path, settings.timezone) is None for path in paths):
        raise no_match(settings, counted(len(paths), "video"), paths[0])


@dataclass(frozen=True, slots=True)
class _Cutter:
    source: ObjectStore
    target: ObjectStore
    settings: InputSettings
    picking: Picking
    frames_per_shard: int
    max_shard_bytes: int

    def cut(self, video: ObjectInfo) -> tuple[Manifest, bool]:
        """Return the manifest of a video, and whether the video had to be cut."""
        name = layout.object_name(clean_text(video.path))
        fingerprint = self._fingerprint(video)
        before = self._manifest(name)
        if before is not None and before.source_sha256 == fingerprint and self._is_complete(before):
            return before, False
        uri = clean_text(self.source.uri_of(video.path))
        if before is not None and before.uri != uri:
            raise OutputError(
                f"{self.target.uri}: has the frames of another {before.video}, {before.uri}, and {uri} would "
                "replace them; use one output per folder of videos, or pass their common parent as --videos"
            )
        manifest = self._write(video, name, fingerprint)
        if before is not None:
            # A shorter or coarser video has fewer tars than before, and the others would count twice.
            self.target.delete(before.tars.keys() - manifest.tars.keys())
        path = f"{_MANIFESTS}/{name}.json"
        self.target.write(path, manifest.model_dump_json(indent=2).encode())
        return manifest, True

    def _fingerprint(self, video: ObjectInfo) -> str:
        content = [
            clean_text(video.path),
            video.size_bytes,
            video.etag,
            self.settings.key_pattern,
            self.settings.timezone,
            float(self.picking.every_s) if self.picking.scene_change is None else None,
            self.picking.scene_change,
            self.frames_per_shard,
            self.max_shard_bytes,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _manifest(self, name: str) -> Manifest | None:
        try:
            return Manifest.model_validate_json(self.target.read(f"{_MANIFESTS}/{name}.json"))
        except (FileNotFoundError, ValidationError):
            return None

    def _is_complete(self, manifest: Manifest) -> bool:
        try:
            return all(self.target.info(tar).size_bytes == size for tar, size in manifest.tars.items())
        except FileNotFoundError:
            return False

    def _write(self, info: ObjectInfo, name: str, fingerprint: str) -> Manifest:
        path = clean_text(info.path)
        facts, error = self._facts_of_path(path), None
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shopframe-"))
            limits = self.frames_per_shard, self.max_shard_bytes
            tars = stack.enter_context(closing(_Tars(self.target, name, Path(folder), *limits)))
            try:
                with self.source.open(info.path, **_READ_AHEAD) as file, Video(file) as video:
                    facts = _first_given(facts, video.tags(self.settings.timezone))
                    for number, (offset_s, picture) in enumerate(self._pick(video)):
                        tars.add(
                            _key(path, offset_s, number), _jpeg(picture), _sidecar(path, offset_s, facts)
                        )
                    error = video.trouble()
            except ShardError as trouble:
                error = str(trouble)
            tars.finish()
        return Manifest(
            video=path,
            uri=clean_text(self.source.uri_of(path)),
            source_sha256=fingerprint,
            tars=tars.written,
            frames=tars.frames,
            camera=facts.camera,
            started_at=None if facts.captured_at is None else facts.captured_at.isoformat(),
            error=error,
        )

    def _pick(self, video: Video) -> Iterator[tuple[float, np.ndarray]]:
        if self.picking.scene_change is None:
            return video.pick_every(self.picking.every_s)
        return video.pick_scenes(self.picking.scene_change)

    def _facts_of_path(self, path: str) -> KeyFacts:
        if self.settings.key_pattern is None:
            return KeyFacts()
        found = compile_pattern(self.settings.key_pattern).read(
            clean_text(self.source.uri_of(path)), self.settings.timezone
        )
        return found or KeyFacts()


def _first_given(path: KeyFacts, tags: KeyFacts) -> KeyFacts:
    """Return what the path names, and what the tags name beyond that."""
    return KeyFacts(path.camera or tags.camera, path.captured_at or tags.captured_at)


def _key(path: str, offset_s: float, number: int) -> str:
    # The number keeps keys apart whose frames are shown in the same millisecond.
    folder, slash, base = path.rpartition("/")
    return f"{folder}{slash}{base}/{round(max(0.0, offset_s) * 1000):09d}-{number:06d}"


def _jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _sidecar(path: str, offset_s: float, facts: KeyFacts) -> bytes:
    document: dict[str, object] = {"video": path, "offset_s": round(offset_s, 3)}
    if facts.camera is not None:
        document["camera"] = facts.camera
    if facts.captured_at is not None:
        time = facts.captured_at + timedelta(seconds=offset_s)
        document["captured_at"] = time.isoformat(timespec="milliseconds")
    return json.dumps(document, ensure_ascii=False).encode()


class _Tars:
    """The tars of one video, which are uploaded one by one as they are full."""

    def __init__(
        self, target: ObjectStore, name: str, folder: Path, frames_per_shard: int, max_bytes: int
    ) -> None:
        self._target = target
        self._name = name
        self._folder = folder
        self._frames_per_shard = frames_per_shard
        self._max_bytes = max_bytes
        self._open = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._in_tar = 0
        self._size_bytes = 0
        self.written: dict[str, int] = {}
        self.frames = 0

    def add(self, key: str, image: bytes, sidecar: bytes) -> None:
        """Add one frame."""
        is_full = self._in_tar == self._frames_per_shard or self._size_bytes + len(image) > self._max_bytes
        if self._tar is not None and is_full:
            self.finish()
        if self._tar is None:
            tar = tarfile.open(self._path(), "w", format=tarfile.GNU_FORMAT, encoding="utf-8")  # noqa: SIM115
            self._tar = self._open.enter_context(tar)
            self._in_tar = self._size_bytes = 0
        add_member(self._tar, f"{key}.jpg", image)
        add_member(self._tar, f"{key}.json", sidecar)
        self._in_tar += 1
        self._size_bytes += len(image)
        self.frames += 1

    def finish(self) -> None:
        """Upload the tar that was begun, if there is one."""
        if self._tar is None:
            return
        self.close()
        path = self._path()
        size_bytes = path.stat().st_size
        self._target.upload(path.name, path)
        path.unlink()
        self.written[path.name] = size_bytes

    def close(self) -> None:
        """Close the tar that was begun, if there is one, without uploading it."""
        self._open.close()
        self._tar = None

    def _path(self) -> Path:
        return self._folder / f"{self._name}-{len(self.written):05d}.tar"
