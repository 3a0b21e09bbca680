"""What the last `shopframe evaluate` against a ground truth has found, for the report."""

from __future__ import annotations

import json
from typing import Any

from actors.storage import layout
from actors.storage.object_store import ObjectStore

_FILE = f"{layout.EVALUATION}/evaluation.json"


def compared_with_truth(store: ObjectStore) -> dict[str, Any] | None:
    """Return the content of `evaluation.json`, or None if the output has none of this version.

    Raises:
        OSError: The store can't be read.
    """
    try:
        found = json.loads(store.read(_FILE))
        annotators = {name: one["attributes"] for name, one in found["annotators"].items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return {
        "truth": found["truth"],
        "persons": found["persons"],
        "frames": found["frames"],
        "detection": found["detection"],
        "annotators": {name: attributes for name, attributes in annotators.items() if attributes},
        "folder": store.uri_of(layout.EVALUATION),
    }
