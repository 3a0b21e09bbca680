"""List the shards of an input URI, in a stable order and with stable names."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from actors.errors import InputError, ShardUnavailableError, StoreError
from actors.read.file_names import (
    SIDECAR_EXTENSION,
    VIDEO_EXTENSIONS,
    describe_extensions,
    extension,
    file_key,
    format_of,
    is_hidden,
    is_image,
    is_sidecar,
    without_shard_suffix,
)
from actors.read.grouping import divide
from actors.read.loose_images import list_members, pack_members
from actors.read.parts import part_etag, split_shard
from actors.read.settings import InputSettings
from actors.records import Shard, ShardFormat
from actors.storage.layout import cut_id, object_name
from actors.storage.map_ahead import map_ahead
from actors.storage.object_info import ObjectInfo
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

_GLOB_CHARACTERS = frozenset("*?[")


def list_shards(settings: InputSettings, storage: StorageSettings) -> Iterator[Shard]:
    """Yield every shard of the input lazily, with at most one folder's listing in memory.

    The files of a folder come first, in the order of their names, followed by its sub-folders. With
    `input.format: auto`, each file is recognised by its extension, so formats may be mixed. Loose images are
    read from any folder, even from one that also contains shards. They form groups of about
    `input.frames_per_shard` that never cross folders, so a new folder changes no other shard, and a new image
    changes one or two (see `actors.read.grouping`). An image comes with the sidecar beside it, whether or not
    the input names the sidecar too. Files and folders with a name that starts with "." are left out.

    A shard is named by its path below the input, without the extension. A part of a large shard has
    `.part-00000` appended. A group of images is named by its folder, or `images` at the top of the input,
    with 12 hexadecimal digits appended that depend on the name of its first image.

    Raises:
        InputError: The input is not set, missing, empty or unreadable, contains nothing of the configured
            format, or would give two shards the same name. The message names the URI and the remedy.
    """
    if not settings.uri:
        raise InputError("input.uri is not set: pass --input URI, or set it in the configuration")
    listing = _Listing(settings, storage)
    names: dict[str, str] = {}
    for shard in listing.shards():
        other = names.setdefault(shard.shard_id, shard.uri)
        if other is not shard.uri:
            raise InputError(
                f"{other} and {shard.uri} would both be shard {shard.shard_id!r}; rename one, or choose "
                "one kind with input.format"
            )
        yield shard
    if not names:
        raise listing.nothing_found()


def is_partial(settings: InputSettings, storage: StorageSettings) -> bool:
    """Return whether the input is a file or a glob, which may name only some images of a folder."""
    return not ObjectStore(str(settings.uri), storage).is_folder()


@dataclass(slots=True)
class _Listing:
    settings: InputSettings
    storage: StorageSettings
    others: Counter[str] = field(default_factory=Counter)

    @property
    def uri(self) -> str:
        return str(self.settings.uri)

    def shards(self) -> Iterator[Shard]:
        """Yield all shards, and raise storage errors as InputErrors."""
        try:
            yield from self._shards()
        except FileNotFoundError as error:
            raise InputError(f"{self.uri}: there is nothing at this input; check input.uri") from error
        except STORAGE_ERRORS as error:
            raise InputError(f"{self.uri}: can't be listed: {storage_error_text(error)}") from error
        except (StoreError, ShardUnavailableError) as error:
            raise InputError(f"{self.uri}: can't be listed: {error}") from error

    def nothing_found(self) -> InputError:
        if not self.others and not _GLOB_CHARACTERS.isdisjoint(self.uri):
            return InputError(f"{self.uri}: nothing matches; check input.uri")
        if not self.others:
            return InputError(f"{self.uri}: is empty; check input.uri")
        if videos := Counter({name: n for name, n in self.others.items() if name in VIDEO_EXTENSIONS}):
            return InputError(
                f"{self.uri}: holds videos ({describe_extensions(videos)}), which a run doesn't read; cut "
                f"them into shards with shopframe shards --videos {self.uri} --output SHARDS, and pass "
                "SHARDS as --input"
            )
        wanted = {
            "auto": "tar, Parquet, zip or images",
            "webdataset": "tar (.tar, .tar.gz, .tgz)",
            "parquet": "Parquet (.parquet)",
            "zip": "zip (.zip)",
            "images": "images",
        }[self.settings.format]
        remedy = "check input.uri" if self.settings.format == "auto" else "check input.uri and input.format"
        return InputError(
            f"{self.uri}: holds no {wanted} (found: {describe_extensions(self.others)}); {remedy}"
        )

    def _shards(self) -> Iterator[Shard]:
        store = ObjectStore(self.uri, self.storage)
        if store.is_folder():
            for folder, infos in by_folder(store.list()):
                yield from self._files(store, folder, infos)
        elif _GLOB_CHARACTERS.isdisjoint(self.uri) or store.exists(""):
            yield from self._single_file(store)
        else:
            yield from self._glob()

    def _single_file(self, store: ObjectStore) -> Iterator[Shard]:
        parent, name = store.parent()
        info = parent.info(name)
        chosen = self.settings.format
        # A file that the input names directly has the configured format, whatever its extension is.
        forced = None if chosen == "auto" or chosen == "images" else chosen  # noqa: PLR1714  mypy narrows this
        sidecar = self._sidecar_of(parent, name) if forced is None and is_image(name) else None
        yield from self._files(parent, "", [info] if sidecar is None else [info, sidecar], forced)

    def _sidecar_of(self, folder: ObjectStore, image: str) -> ObjectInfo | None:
        """Return the sidecar of an image, without listing a folder that may hold millions of files."""
        if not self.settings.sidecars:
            return None
        stem = image[: len(image) - len(extension(image))]
        for suffix in (SIDECAR_EXTENSION, SIDECAR_EXTENSION.upper()):
            if folder.exists(f"{stem}{suffix}"):
                return folder.info(f"{stem}{suffix}")
        return None

    def _glob(self) -> Iterator[Shard]:
        parts = self.uri.split("/")
        first = next(i for i, part in enumerate(parts) if not _GLOB_CHARACTERS.isdisjoint(part))
        store = ObjectStore(
            "/".join(parts[:first]) or ("/" if self.uri.startswith("/") else "."), self.storage
        )
        for folder, infos in by_folder(store.glob("/".join(parts[first:]))):
            yield from self._files(store, folder, self._with_sidecars_beside(store, folder, infos))

    def _with_sidecars_beside(
        self, store: ObjectStore, folder: str, infos: list[ObjectInfo]
    ) -> list[ObjectInfo]:
        """Add the sidecars of one folder's images, which a pattern such as `*.jpg` doesn't match."""
        images = {file_key(info.path) for info in infos if is_image(info.path)}
        if not images or not self.settings.sidecars or self.settings.format not in ("auto", "images"):
            return infos
        matched = {info.path for info in infos}
        beside = (
            info
            for info in store.list(folder, sub_folders=False)
            if is_sidecar(info.path) and file_key(info.path) in images and info.path not in matched
        )
        return [*infos, *beside]

    def _files(
        self, store: ObjectStore, folder: str, infos: list[ObjectInfo], forced: ShardFormat | None = None
    ) -> Iterator[Shard]:
        """Yield the shards of one folder: its files, then its groups of loose images."""
        loose: list[ObjectInfo] = []
        images = 0
        for info in infos:
            kind = forced or format_of(info.path)
            if kind is None and is_sidecar(info.path) and self.settings.sidecars:
                loose.append(info)
            elif kind is None or self.settings.format not in ("auto", kind):
                self.others[extension(info.path)] += 1
            elif kind == "images":
                images += 1
                loose.append(info)
            else:
                shard = Shard(
                    shard_id=_file_shard_id(info.path),
                    uri=store.uri_of(info.path),
                    format=kind,
                    etag=info.etag,
                    size_bytes=info.size_bytes,
                )
                yield from split_shard(shard, self.settings.max_shard_bytes, self.storage)
        if images:
            yield from self._image_groups(store, folder, loose)
        else:
            self.others.update(extension(info.path) for info in loose)

    def _image_groups(self, store: ObjectStore, folder: str, loose: list[ObjectInfo]) -> Iterator[Shard]:
        name = _group_name(folder)
        images = list(with_sidecars(loose))
        names = [image.path.rpartition("/")[2] for image, _ in images]
        for group in divide(names, self.settings.frames_per_shard):
            members = images[group.start : group.stop]
            # Two images with the same key share a sidecar.
            sidecars = {sidecar.path: sidecar for _, sidecar in members if sidecar is not None}
            files = [*(image for image, _ in members), *sidecars.values()]
            yield Shard(
                shard_id=f"{name}-{group.label}",
                uri=store.uri_of(folder),
                format="images",
                etag=_group_etag(files),
                size_bytes=sum(info.size_bytes for info in files),
                members=pack_members([info.path.rpartition("/")[2] for info in files]),
            )


def current_etag(shard: Shard, storage: StorageSettings) -> str:
    """Return the etag that the shard would have if its source were listed now.

    Raises:
        FileNotFoundError: The source, or one image of a group, no longer exists.
        OSError: The store failed.
    """
    store = ObjectStore(shard.uri, storage)
    if shard.format == "images":
        return _group_etag(map_ahead(store.info, list_members(shard.members)))
    parent, name = store.parent()
    etag = parent.info(name).etag
    return etag if shard.start == 0 and shard.stop is None else part_etag(etag, shard.start, shard.stop)


def by_folder(objects: Iterable[ObjectInfo]) -> Iterator[tuple[str, list[ObjectInfo]]]:
    """Yield each folder with the objects directly in it. Hidden files and folders are left out.

    Args:
        objects: Objects folder by folder, as `ObjectStore.list` yields them.
    """
    for folder, infos in groupby(objects, lambda info: info.path.rpartition("/")[0]):
        if any(part.startswith(".") for part in folder.split("/")):
            continue
        yield folder, [info for info in infos if not is_hidden(info.path)]


def with_sidecars(infos: Iterable[ObjectInfo]) -> Iterator[tuple[ObjectInfo, ObjectInfo | None]]:
    """Return every image among the files of one folder, with its sidecar or None."""
    files = list(infos)
    sidecars = {file_key(info.path): info for info in files if is_sidecar(info.path)}
    return ((info, sidecars.get(file_key(info.path))) for info in files if is_image(info.path))


def _file_shard_id(path: str) -> str:
    name = object_name(without_shard_suffix(path))
    # A name like that of a part that was cut off another shard is escaped.
    return name if cut_id(name) == name else object_name(f"./{name}")


def _group_name(folder: str) -> str:
    if not folder:
        return "images"
    # A folder named "images" would have the same name as the group of the top folder, so it gets another.
    return object_name("./images" if folder == "images" else folder)


def _group_etag(group: Iterable[ObjectInfo]) -> str:
    """Return the identity of a group, made from the names, sizes and etags of its files."""
    names = ((info.path.rpartition("/")[2], info) for info in group)
    identity = "\n".join(sorted(f"{name}\t{info.size_bytes}\t{info.etag}" for name, info in names))
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
