"""Read the logs of runs whose output is in a bucket."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from actors.storage import layout
from actors.storage.object_store import ObjectStore


def logs_of(store: ObjectStore) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of each run, in the order of their parts, by the id of the run."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for part in store.list(layout.LOGS):
        run_id = layout.run_of_log(part.path)
        assert run_id is not None, part.path
        found[run_id] += map(json.loads, store.read(part.path).decode().splitlines())
    return dict(found)
