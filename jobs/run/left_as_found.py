"""A run that is refused leaves no new folder behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from actors.errors import ConfigError
from actors.storage import layout
from actors.storage.store_errors import STORAGE_ERRORS
from actors.storage.uris import absolute_uri, is_local_uri


@contextmanager
def left_as_found(uri: str | None) -> Iterator[None]:
    """Delete the new folder of an output if the run is refused and nothing is there but its log.

    Args:
        uri: The output, or None if none is given. In a store without folders nothing is deleted.
    """
    folder = Path(absolute_uri(uri)) if uri and is_local_uri(uri) else None
    made = [] if folder is None else [*takewhile(lambda path: not path.exists(), (folder, *folder.parents))]
    try:
        yield
    except (ConfigError, *STORAGE_ERRORS):
        if folder is not None and made and _has_only_a_log(folder):
            shutil.rmtree(folder, ignore_errors=True)
            for parent in made[1:]:
                with suppress(OSError):  # It isn't there, or has got other content.
                    parent.rmdir()
        raise


def _has_only_a_log(folder: Path) -> bool:
    return all(path.is_dir() or path == folder / layout.LOG for path in folder.rglob("*"))
