"""Files that are written beside their target on a local disk and then renamed or linked into place."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_file(target: Path, content: bytes) -> Iterator[Path]:
    """Write a file beside `target`, flush it to the disk, and delete it at the end unless it was renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: str) -> bool:
    """Return whether a file has the name of a temporary file. A killed process leaves them behind."""
    return re.fullmatch(r"\.[0-9a-f]{32}\.tmp", path.rpartition("/")[2]) is not None
