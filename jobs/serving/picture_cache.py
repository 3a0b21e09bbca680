"""Pictures on this machine's disk, of which the ones used longest ago are deleted when there are too many."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path

_KEPT_SHARE = 0.9
"""Share of the limit that is left after a deletion, so that not every new picture leads to another one."""


class PictureCache:
    """A folder of pictures. Methods may be called from several threads, and several processes may share it.

    Args:
        folder: The folder, which is created, and which nobody else on this machine can read.
        max_bytes: Size above which pictures are deleted.

    Raises:
        OSError: The folder can't be written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._bytes = sum(path.stat().st_size for path in self._pictures())

    def get(self, name: str) -> bytes | None:
        """Return a picture, or None if there is none of this name."""
        path = self._folder / name
        try:
            content = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        return content

    def put(self, name: str, content: bytes) -> None:
        """Keep a picture under a name, a relative path."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = path.with_name(f".{uuid.uuid4().hex}")
        begun.write_bytes(content)
        os.replace(begun, path)
        with self._lock:
            self._bytes += len(content)
            if self._bytes > self._max_bytes:
                self._make_room()

    def _make_room(self) -> None:
        found = [
            (status.st_mtime_ns, status.st_size, path) for path in self._pictures() if (status := path.stat())
        ]
        self._bytes = sum(size for _, size, _ in found)
        for _, size, path in sorted(found, key=lambda picture: picture[0]):
            if self._bytes <= _KEPT_SHARE * self._max_bytes:
                return
            path.unlink(missing_ok=True)
            self._bytes -= size

    def _pictures(self) -> list[Path]:
        return [path for path in self._folder.rglob("*") if path.is_file()]
