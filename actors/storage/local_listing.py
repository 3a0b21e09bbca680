"""List a folder on a disk as fsspec does, in a fraction of its time."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Any

from fsspec.implementations.local import LocalFileSystem

_TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "directory"}


def local_entries(fs: LocalFileSystem, folder: str) -> list[dict[str, Any]]:
    """Return name, type, size and mtime of what is in a folder, as `fs.ls` gives them.

    fsspec takes most of its time for details that nothing here reads. Files that vanish meanwhile are left
    out.

    Args:
        fs: The filesystem, which is asked about links and about a folder that is a file.
        folder: Path of the folder.

    Raises:
        OSError: The folder doesn't exist or can't be listed.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found.append(fs.info(entry) if entry.is_symlink() else _described(folder, entry))
    except NotADirectoryError:
        return list(fs.ls(folder, detail=True))
    return found


def _described(folder: str, entry: os.DirEntry[str]) -> dict[str, Any]:
    about = entry.stat(follow_symlinks=False)
    return {
        "name": f"{folder.rstrip('/')}/{entry.name}",
        "type": _TYPES.get(stat.S_IFMT(about.st_mode), "other"),
        "size": about.st_size,
        "mtime": about.st_mtime,
    }
