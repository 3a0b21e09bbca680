"""Find the logs of runs that ended long ago, where each run has a log of its own."""

from __future__ import annotations

from collections.abc import Iterator

from actors.storage import layout
from actors.storage.flat_listing import list_flat, names_in
from actors.storage.object_info import ObjectInfo
from actors.storage.object_store import ObjectStore

KEPT_S = 30 * 24 * 3600.0
"""Age from which the log of a run is deleted. The log of the last run is kept, whatever its age."""


def old_logs(store: ObjectStore, before_s: float) -> Iterator[ObjectInfo]:
    """Yield the parts of logs that were last added to before a time, in seconds since the epoch.

    Raises:
        OSError: The logs can't be listed.
    """
    for run_id in sorted(names_in(store, layout.LOGS))[:-1]:
        if run_id >= layout.run_id_time(before_s):
            return
        parts = list(list_flat(store, layout.log_folder(run_id)))
        last_s = max((part.modified_s or float("inf") for part in parts), default=0)
        if last_s < before_s:
            yield from (part for part in parts if layout.run_of_log(part.path) is not None)
