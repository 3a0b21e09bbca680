"""Which crops a shard's table of persons holds, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pyarrow as pa

from actors.fingerprint import annotators_in
from actors.records import PERSONS_SCHEMA, RETRYABLE
from actors.storage.tables import to_parquet

KeepCrops = Literal["until_annotated", "always", "never"]


def needs_crops(
    keep: KeepCrops,
    enabled: Mapping[str, str],
    committed: Mapping[str, str],
    annotations: Mapping[str, pa.Table],
) -> bool:
    """Whether a shard's crops are to be kept at a commit.

    Args:
        keep: `output.keep_crops`.
        enabled: Stage to its fingerprint in this run, annotators among them.
        committed: Stage to its fingerprint in the record that is about to be written.
        annotations: Annotator to its answers.
    """
    if keep != "until_annotated":
        return keep == "always"
    annotators = annotators_in(enabled)
    # Without any annotator they are kept for one that is enabled later: else nobody would ever have
    # seen them, and counting first and asking later is how a large archive is begun.
    return not annotators or any(
        committed.get(name) != enabled[name] or _owes(annotations.get(name)) for name in annotators
    )


def persons_parquet(persons: pa.Table, with_crops: bool) -> bytes:
    """The persons as they are written; equal rows give equal bytes, also after they were read back.

    Args:
        persons: PERSONS_SCHEMA, but for the index type of its dictionaries.
        with_crops: Whether kept persons keep their crops.
    """
    rows = persons.to_pylist()
    if not with_crops:
        rows = [row | {"crop": None} for row in rows]
    return to_parquet(pa.Table.from_pylist(rows, PERSONS_SCHEMA))


def _owes(answers: pa.Table | None) -> bool:
    return answers is None or any(status in RETRYABLE for status in answers["status"].to_pylist())
