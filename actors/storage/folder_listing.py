"""List one folder: on a disk in a fraction of the time that fsspec takes, elsewhere by fsspec."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from actors.storage.object_info import ObjectInfo, is_object, local_etag, object_info

Wanted = Callable[[str], bool]
"""Function that says of an object's path whether the caller wants the object."""


def local_folder(
    root: str, folder: str, wanted: Wanted | None = None
) -> tuple[Iterable[ObjectInfo], list[str]]:
    """Return the objects directly in a folder, and the full paths of its sub-folders, both by name.

    A folder that is a file is listed as that file. Links are left out, as are files that vanish meanwhile.

    Args:
        root: Full path of the store, to which the paths of objects are relative.
        folder: Full path of the folder.
        wanted: Which objects to list; by default all. The disk isn't asked about the size of the others.

    Raises:
        OSError: The folder doesn't exist or can't be listed.
    """
    objects: list[ObjectInfo] = []
    folders: list[str] = []
    prefix = f"{folder[len(root) :].strip('/')}/".lstrip("/")
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{folder.rstrip('/')}/{entry.name}")
                    continue
                path = prefix + entry.name
                if not entry.is_file(follow_symlinks=False) or (wanted is not None and not wanted(path)):
                    continue
                try:
                    objects.append(_info(path, entry.stat(follow_symlinks=False)))
                except FileNotFoundError:
                    continue
    except NotADirectoryError:
        path = prefix.rstrip("/")
        return [_info(path, os.stat(folder))] if wanted is None or wanted(path) else [], []
    objects.sort(key=lambda info: info.path)
    folders.sort()
    return objects, folders


def remote_folder(fs: Any, root: str, folder: str) -> tuple[Iterable[ObjectInfo], list[str]]:
    """Return the same of a folder in any fsspec filesystem.

    Args:
        fs: The filesystem.
        root: Full path of the store, to which the paths of objects are relative.
        folder: Full path of the folder.

    Raises:
        OSError: The folder doesn't exist or can't be listed.
    """
    entries = sorted(fs.ls(folder, detail=True), key=lambda entry: str(entry["name"]))
    folders = [str(entry["name"]).rstrip("/") for entry in entries if entry["type"] == "directory"]
    objects = (
        object_info(str(entry["name"])[len(root) :].lstrip("/"), entry)
        for entry in entries
        if is_object(entry)
    )
    return objects, [name for name in folders if name != folder.rstrip("/")]


def _info(path: str, about: os.stat_result) -> ObjectInfo:
    etag = local_etag(about.st_size, about.st_mtime)
    return ObjectInfo(path, about.st_size, etag, about.st_mtime)
