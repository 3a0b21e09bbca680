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


def with_reuse(question: str, reuse: str | None) -> str:
    """Return the fingerprint of an annotator: of its question, and of the groups in which answers are shared.

    Args:
        question: Fingerprint of the question, by which answers about crops are known.
        reuse: Fingerprint of the groups, or None if no answers are shared.
    """
    return question if reuse is None else f"{question}.{reuse[:16]}"


def question_of(fingerprint: str) -> str:
    """Return the fingerprint of the question that `with_reuse` was called with."""
    return fingerprint.partition(".")[0]


def reuse_of(fingerprint: str) -> str:
    """Return the part of a fingerprint of an annotator that stands for the groups; "" if there is none."""
    return fingerprint.partition(".")[2]


def fits(committed: str | None, wanted: str, inherited: int) -> bool:
    """Return whether committed answers are good for a run, so that nobody has to be asked again.

    Answers about a crop itself are good whether or not others share them. Only inherited ones depend on that.

    Args:
        committed: The annotator's fingerprint with which they were committed, or None if it was not asked.
        wanted: The annotator's fingerprint in the run.
        inherited: Number of the inherited ones.
    """
    if committed is None or inherited:
        return committed == wanted
    return question_of(committed) == question_of(wanted)


def crop_sha256(jpeg: bytes) -> str:
    """Return the digest that identifies a crop, in hexadecimal digits."""
    return hashlib.sha256(jpeg).hexdigest()


def annotators_in(stages: Iterable[str]) -> list[str]:
    """Return the annotators among the stages of a run, in the order given."""
    return [stage for stage in stages if stage not in NOT_ANNOTATORS]
