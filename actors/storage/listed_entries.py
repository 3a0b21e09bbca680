"""Read the entries in which fsspec's filesystems describe what they list."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def entry_etag(entry: dict[str, Any]) -> str:
    """Return the identity of an object's content: the store's own, else one made of size and time."""
    for name in ("ETag", "etag", "md5Hash", "content_md5"):
        if entry.get(name):
            return str(entry[name]).strip('"')
    modified = entry.get("mtime", entry.get("LastModified", entry.get("created", "")))
    if isinstance(modified, datetime):
        modified = modified.timestamp()
    return f"{entry['size']}-{modified}"


def is_object(entry: dict[str, Any]) -> bool:
    """Return whether an entry is an object, and not a folder."""
    # Consoles create folders as empty objects whose names end with "/".
    return entry["type"] == "file" and not str(entry["name"]).endswith("/")


def folder_by_folder(entry: dict[str, Any]) -> tuple[str, bool, str]:
    """Return a key that sorts entries folder by folder, and a folder's objects before its sub-folders."""
    name = str(entry["name"]).rstrip("/")
    return name.rpartition("/")[0], entry["type"] == "directory", name
