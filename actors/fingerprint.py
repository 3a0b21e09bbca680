"""Fingerprints: a stage runs again if the hash of everything that its result depends on has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

NOT_ANNOTATORS = ("detect", "person_json")
"""Stages that have a fingerprint but are not annotators; all other stages are."""


def fingerprint_of(content: object) -> str:
    """Return the SHA-256 of JSON-serialisable content; equal content gives the same hash on every machine."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def crop_sha256(jpeg: bytes) -> str:
    """Return the digest that identifies a crop, in hexadecimal digits."""
    return hashlib.sha256(jpeg).hexdigest()


def annotators_in(stages: Iterable[str]) -> list[str]:
    """Return the annotators among the stages of a run, in the order given."""
    return [stage for stage in stages if stage not in NOT_ANNOTATORS]
