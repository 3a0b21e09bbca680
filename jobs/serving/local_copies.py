"""Files of an output on this machine, copied there if the output is remote."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore


def local_files(store: ObjectStore, paths: Sequence[str], folder: Path) -> list[Path]:
    """Return local paths of objects, which are never changed under one name.

    Those of a remote store are copied into the folder once. What else is in the folder is deleted.

    Raises:
        OSError: The store can't be read, or the folder can't be written.
    """
    if store.is_local:
        return [Path(store.full(path)) for path in paths]
    folder.mkdir(parents=True, exist_ok=True)
    copies = {path: folder / path.rpartition("/")[2] for path in paths}
    for other in set(folder.iterdir()) - set(copies.values()):
        other.unlink()

    def copy(path: str) -> None:
        if not copies[path].exists():
            begun = folder / f"{uuid.uuid4().hex}.begun"
            store.fs.get_file(store.full(path), str(begun))
            os.replace(begun, copies[path])

    list(map_ahead(copy, paths))
    return list(copies.values())
