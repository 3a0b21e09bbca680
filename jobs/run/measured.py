"""What is known about the accuracy of an output's final values: what `shopframe evaluate` has kept."""

from __future__ import annotations

import json
from typing import Any

from actors.storage import layout
from actors.storage.object_store import ObjectStore

FILE = "corrections.json"
"""File of the accuracy by human decisions, in the folder of evaluations."""
FINAL = "final"
"""Name of the final values that machines alone would give, beside the annotators."""

GUESSES = (
    "every value of a machine is a model's guess: nothing is measured; decide persons of a random audit "
    "(shopframe serve), and run shopframe evaluate --truth corrections"
)
MEASURED = "estimated from random decisions by the last shopframe evaluate --truth corrections"


def measured_accuracy(store: ObjectStore) -> dict[str, Any]:
    """Return the accuracy of final values with its interval, and coverage beside it, by attribute.

    Without an evaluation, or without random decisions in it, no attribute has any.
    """
    try:
        found = json.loads(store.read(f"{layout.EVALUATION}/{FILE}"))
        attributes = {
            name: {**one["accuracy"], "coverage": found["coverage"].get(name)}
            for name, one in found["annotators"][FINAL].items()
            if one["accuracy"]["value"] is not None
        }
    except (FileNotFoundError, ValueError, KeyError):
        attributes = {}
    return {"note": MEASURED if attributes else GUESSES, "attributes": attributes}
