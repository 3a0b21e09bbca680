"""Pack loose images into WebDataset tars, so that one request reads thousands of frames."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from actors.errors import InputError, OutputError
from actors.read.file_names import clean_text, extension, file_key
from actors.read.listing import by_folder, with_sidecars
from actors.storage.map_ahead import map_ahead
from actors.storage.object_info import ObjectInfo
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.run.grouping import grouped

_MANIFESTS = "_packed"


@dataclass(slots=True)
class PackSummary:
    """The result of `pack_images`.

    Attributes:
        shards_written: Number of tars written by this run.
        shards_skipped: Number of tars that already existed with the same images.
        frames: Number of images in all tars.
        size_bytes: Size of all tars together.
        left_out: Path and reason for each image that was left out.
    """

    shards_written: int = 0
    shards_skipped: int = 0
    frames: int = 0
    size_bytes: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def add(self, manifest: _Manifest, written: bool) -> None:
        """Count one shard."""
        self.shards_written += written
        self.shards_skipped += not written
        self.frames += manifest.frames
        self.size_bytes += manifest.size_bytes
        self.left_out.extend(manifest.left_out)


class _Manifest(BaseModel):
    """The file `_packed/<shard>.json`, which is written after a tar and proves that the tar is complete."""

    model_config = ConfigDict(frozen=True)

    source_sha256: str
    size_bytes: int
    frames: int
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    image: ObjectInfo
    sidecar: ObjectInfo | None


def pack_images(
    images_uri: str,
    output_uri: str,
    storage: StorageSettings | None = None,
    *,
    frames_per_shard: int = 2000,
    max_shard_bytes: int = 200 * 2**20,
    max_image_bytes: int = 64 * 2**20,
) -> PackSummary:
    """Pack every image under a folder, with its sidecar `.json`, into `shard-00000.tar` and so on.

    The same images give the same bytes: they are packed in the order of their paths, without times and
    owners. A tar is visible either complete or not at all, and a rerun writes only tars that are missing or
    whose images changed.

    Keys are paths without their extension. WebDataset ends a key at the first dot of the file name, so dots
    become "_". If that makes two keys equal, a hash is appended to the later one. If a key differs from the
    path in any way, the sidecar holds the original path as `original_path`.

    Args:
        images_uri: Folder or bucket prefix with the images.
        output_uri: Where the tars are written.
        storage: Storage settings for both.
        frames_per_shard: Maximum number of images per tar.
        max_shard_bytes: Maximum size of the images in one tar, unless a single one is larger. The default is
            below that of `input.max_shard_bytes`, so that no tar has to be split again.
        max_image_bytes: Larger images are left out and reported. Eight images are in memory at once.

    Raises:
        InputError: If there are no images, or they can't be listed.
        OutputError: If the output can't be written, or if it holds more shards from an earlier packing than
            this one makes, because their frames would count twice.
    """
    source = ObjectStore(images_uri, storage)
    target = ObjectStore(output_uri, storage)
    summary = PackSummary()
    number = 0
    try:
        images = _list_images(source)
        groups = grouped(images, frames_per_shard, max_shard_bytes, lambda one: one.image.size_bytes)
        for number, group in enumerate(groups, 1):
            name = f"shard-{number - 1:05d}"
            summary.add(*_pack_shard(source, target, name, group, max_image_bytes))
    except STORAGE_ERRORS as error:
        raise OutputError(f"{images_uri} to {output_uri}: {storage_error_text(error)}") from error
    if not number:
        raise InputError(f"{images_uri}: holds no images; check --images")
    _refuse_leftovers(target, number)
    return summary


def _list_images(store: ObjectStore) -> Iterator[_Source]:
    try:
        for _, infos in by_folder(store.list()):
            yield from (_Source(image, sidecar) for image, sidecar in with_sidecars(infos))
    except STORAGE_ERRORS as error:
        raise InputError(f"{store.uri}: can't be listed: {storage_error_text(error)}") from error


def _pack_shard(
    source: ObjectStore, target: ObjectStore, name: str, group: list[_Source], max_image_bytes: int
) -> tuple[_Manifest, bool]:
    """Return the shard's manifest, and whether the shard had to be written."""
    fingerprint = _fingerprint(group, max_image_bytes)
    finished = _finished(target, name, fingerprint)
    if finished is not None:
        return finished, False
    with tempfile.TemporaryDirectory(prefix="shopframe-") as folder:
        packed = Path(folder) / f"{name}.tar"
        frames, left_out = _write_tar(packed, source, group, max_image_bytes)
        manifest = _Manifest(
            source_sha256=fingerprint,
            size_bytes=packed.stat().st_size,
            frames=frames,
            left_out=tuple(left_out),
        )
        target.upload(f"{name}.tar", packed)
    target.write(f"{_MANIFESTS}/{name}.json", manifest.model_dump_json(indent=2).encode())
    return manifest, True


def _fingerprint(group: list[_Source], max_image_bytes: int) -> str:
    digest = hashlib.sha256(f"{max_image_bytes}\n".encode())
    for entry in group:
        for info in (entry.image, entry.sidecar):
            text = f"{info.path}\t{info.size_bytes}\t{info.etag}\n" if info else "-\n"
            digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _finished(target: ObjectStore, name: str, fingerprint: str) -> _Manifest | None:
    try:
        manifest = _Manifest.model_validate_json(target.read(f"{_MANIFESTS}/{name}.json"))
        size_bytes = target.info(f"{name}.tar").size_bytes
    except (FileNotFoundError, ValidationError):
        return None
    same = manifest.source_sha256 == fingerprint and manifest.size_bytes == size_bytes
    return manifest if same else None


def _write_tar(
    path: Path, source: ObjectStore, group: list[_Source], max_image_bytes: int
) -> tuple[int, list[tuple[str, str]]]:
    """Write a tar. Returns the number of images in it, and path and reason for those left out."""
    left_out: list[tuple[str, str]] = []
    used: set[str] = set()

    def read(entry: _Source) -> tuple[_Source, bytes, bytes | None] | str:
        if entry.image.size_bytes > max_image_bytes:
            return f"too large: {entry.image.size_bytes} bytes, more than {max_image_bytes}"
        try:
            sidecar = source.read(entry.sidecar.path) if entry.sidecar else None
            return entry, source.read(entry.image.path), sidecar
        except (FileNotFoundError, PermissionError) as error:
            return storage_error_text(error)

    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for entry, content in zip(group, map_ahead(read, group), strict=True):
            original = clean_text(entry.image.path)
            if isinstance(content, str):
                left_out.append((original, content))
                continue
            _, image, sidecar = content
            key = _key_of(original, used)
            add_member(tar, f"{key}{extension(original)}", image)
            if key != file_key(original):
                sidecar = _with_original_path(sidecar, original)
            if sidecar is not None:
                add_member(tar, f"{key}.json", sidecar)
    return len(group) - len(left_out), left_out


def _key_of(path: str, used: set[str]) -> str:
    folder, slash, base = file_key(path).rpartition("/")
    key = folder + slash + base.replace(".", "_")
    if key in used:
        key = f"{key}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    used.add(key)
    return key


def _with_original_path(sidecar: bytes | None, path: str) -> bytes:
    """Return the sidecar with `original_path` added. A broken sidecar is returned unchanged."""
    document: Any = {}
    if sidecar is not None:
        try:
            document = json.loads(sidecar)
        except (ValueError, RecursionError):
            return sidecar
        if not isinstance(document, dict):
            return sidecar
    document["original_path"] = path
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file without time and owner, so that equal content gives equal bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _refuse_leftovers(target: ObjectStore, count: int) -> None:
    names = [info.path for info in target.list() if re.fullmatch(r"shard-\d{5,}\.tar", info.path)]
    leftovers = [name for name in names if int(name[6:-4]) >= count]
    if leftovers:
        raise OutputError(
            f"{target.uri}: {len(leftovers)} shards of an earlier packing are left ({leftovers[0]} to "
            f"{leftovers[-1]}) and would count twice; delete them"
        )
