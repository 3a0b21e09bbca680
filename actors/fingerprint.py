"""Fingerprints: a stage is done again where the hash of everything that its result depends on has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

NOT_ANNOTATORS = ("detect", "person_json")
"""Stages that have a fingerprint and ask nobody about a person; all others are annotators."""


def fingerprint_of(content: object) -> str:
    """SHA-256 of JSON-serialisable content: equal content has the same fingerprint on every machine."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def annotators_in(stages: Iterable[str]) -> list[str]:
    """Names of the annotators among the stages of a run, in the order given."""
    return [stage for stage in stages if stage not in NOT_ANNOTATORS]
