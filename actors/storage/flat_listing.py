"""List many small objects with few requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import fsspec

from actors.storage.folder_listing import Wanted, local_folder
from actors.storage.object_info import ObjectInfo, is_object, object_info

if TYPE_CHECKING:
    from actors.storage.object_store import ObjectStore


def list_flat(store: ObjectStore, folder: str, wanted: Wanted | None = None) -> Iterator[ObjectInfo]:
    """Yield every object under a folder, whatever its depth. Yields nothing if the folder doesn't exist.

    On S3 this takes one request per 1,000 objects and holds one page in memory, while `ObjectStore.list`
    takes a request per folder. The objects under one sub-folder follow each other; their order is
    unspecified.

    Args:
        store: The store.
        folder: Path of the folder.
        wanted: Which objects to yield; by default all. On a disk the others cost a small part of the time.

    Raises:
        OSError: The folder can't be listed.
    """
    if store.is_local:
        yield from _list_local(store, store.full(folder), wanted)
        return
    listed = _list_pages(store, folder) if store.is_s3 else store.list(folder)
    yield from (info for info in listed if wanted is None or wanted(info.path))


def _list_local(store: ObjectStore, folder: str, wanted: Wanted | None) -> Iterator[ObjectInfo]:
    try:
        objects, folders = local_folder(store.root, folder, wanted)
    except FileNotFoundError:
        return
    yield from objects
    for sub_folder in folders:
        yield from _list_local(store, sub_folder, wanted)


def _list_pages(store: ObjectStore, folder: str) -> Iterator[ObjectInfo]:
    bucket, key, _ = store.fs.split_path(store.full(folder))
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
    skipped = len(store.root) + 1
    while True:
        page = fsspec.asyn.sync(store.fs.loop, store.fs._call_s3, "list_objects_v2", **request)
        for found in page.get("Contents", ()):
            entry = {**found, "name": f"{bucket}/{found['Key']}", "size": found["Size"], "type": "file"}
            if is_object(entry):
                yield object_info(entry["name"][skipped:], entry)
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def folders_in(store: ObjectStore, most: int) -> list[str]:
    """Return the names of the folders directly in a store, at most `most` of them.

    On S3 this is one request, whatever the store contains; folders after the first 1,000 names are missing.

    Raises:
        OSError: The store can't be listed.
    """
    if store.is_s3:
        bucket, key, _ = store.fs.split_path(store.full(""))
        request = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "/"}
        page = fsspec.asyn.sync(store.fs.loop, store.fs._call_s3, "list_objects_v2", **request)
        names = [str(found["Prefix"]) for found in page.get("CommonPrefixes", ())]
    else:
        entries = store.fs.ls(store.full(""), detail=True)
        names = sorted(str(entry["name"]) for entry in entries if entry["type"] == "directory")
    return [name.rstrip("/").rpartition("/")[2] for name in names[:most]]


def names_in(store: ObjectStore, folder: str) -> list[str]:
    """Return the names of the objects and folders directly in a folder, or an empty list if there is none.

    Raises:
        OSError: The folder can't be listed.
    """
    try:
        found = store.fs.ls(store.full(folder), detail=False)
    except FileNotFoundError:
        return []
    return [str(name).rstrip("/").rpartition("/")[2] for name in found]
