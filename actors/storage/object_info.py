"""What a listing says about an object, from the entries of any fsspec filesystem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_MODIFIED_KEYS = ("mtime", "LastModified", "last_modified", "updated", "created")
"""Keys under which filesystems give the time of the last change."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object.

    Attributes:
        path: Path relative to the store's root.
        size_bytes: Size in bytes.
        etag: Identity of the content.
        modified_s: When the object was written, in seconds since the epoch by the clock of the store, or None
            if the store doesn't say. It is not compared, because stores round it differently in a listing.
    """

    path: str
    size_bytes: int
    etag: str
    modified_s: float | None = field(default=None, compare=False)


def object_info(path: str, entry: Mapping[str, Any]) -> ObjectInfo:
    """Return what an entry of a filesystem's listing says about the object at `path`."""
    modified_s = _modified_s(entry)
    return ObjectInfo(path, int(entry["size"] or 0), _etag(entry, modified_s), modified_s)


def local_etag(size_bytes: int | None, modified_s: float | None) -> str:
    """Return the etag of a file in a store that has none, such as a disk."""
    return f"{size_bytes}-{'' if modified_s is None else modified_s}"


def is_object(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry of a filesystem's listing is an object and not a folder."""
    # Web consoles create a folder as an empty object with a name that ends with "/".
    return entry["type"] == "file" and not str(entry["name"]).endswith("/")


def folder_by_folder(entry: Mapping[str, Any]) -> tuple[str, bool, str]:
    """Return a key that sorts entries folder by folder, and a folder's objects before its sub-folders."""
    name = str(entry["name"]).rstrip("/")
    return name.rpartition("/")[0], entry["type"] == "directory", name


def _etag(entry: Mapping[str, Any], modified_s: float | None) -> str:
    for name in ("ETag", "etag", "md5Hash", "content_md5"):
        if entry.get(name):
            return str(entry[name]).strip('"')
    return local_etag(entry["size"], modified_s)


def _modified_s(entry: Mapping[str, Any]) -> float | None:
    for name in _MODIFIED_KEYS:
        value = entry.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
