"""Where this machine keeps pictures and tables of outputs that are looked at."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from actors.storage.object_store import ObjectStore


def copies_of(store: ObjectStore, folder: Path) -> Path:
    """Return the folder of the copies of one output."""
    return folder / hashlib.sha256(store.uri.encode()).hexdigest()[:16]


def count_copies(store: ObjectStore, folder: Path) -> int:
    """Return the number of files that are copies of an output."""
    return sum(path.is_file() for path in copies_of(store, folder).rglob("*"))


def delete_copies(store: ObjectStore, folder: Path) -> int:
    """Delete the copies of an output, and return the number of files.

    Raises:
        OSError: A file can't be deleted.
    """
    count, copies = count_copies(store, folder), copies_of(store, folder)
    if copies.exists():
        shutil.rmtree(copies)
    return count
