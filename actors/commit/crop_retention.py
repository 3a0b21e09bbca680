"""Decide whether a shard's persons table holds crops, and write the table."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from actors.commit.settings import KeepCrops
from actors.fingerprint import annotators_in, fits
from actors.records import PERSONS_SCHEMA, RETRYABLE
from actors.storage.tables import to_parquet


def needs_crops(
    keep: KeepCrops,
    enabled: Mapping[str, str],
    committed: Mapping[str, str],
    annotations: Mapping[str, pa.Table],
) -> bool:
    """Return whether a commit keeps the shard's crops.

    Args:
        keep: The setting `output.keep_crops`.
        enabled: Fingerprints of this run by stage, including its annotators.
        committed: Fingerprints by stage in the record that is about to be written.
        annotations: Annotations tables by annotator.
    """
    if keep != "until_annotated":
        return keep == "always"
    annotators = annotators_in(enabled)
    # Without any annotator, crops are kept for one that is enabled later. No annotator has seen them yet, and
    # a large archive is often only counted first and annotated later.
    return not annotators or any(
        not fits(committed.get(name), enabled[name], _inherited(annotations.get(name)))
        or _owes(annotations.get(name))
        for name in annotators
    )


def persons_parquet(persons: pa.Table, with_crops: bool) -> bytes:
    """Return the persons table as Parquet; equal rows give equal bytes, also after they were read back.

    Args:
        persons: A table with PERSONS_SCHEMA; the index types of its dictionaries may differ.
        with_crops: Whether kept persons keep their crops.
    """
    rows = persons.to_pylist()
    if not with_crops:
        rows = [row | {"crop": None} for row in rows]
    return to_parquet(pa.Table.from_pylist(rows, PERSONS_SCHEMA))


def _inherited(answers: pa.Table | None) -> int:
    return 0 if answers is None else answers["status"].to_pylist().count("inherited")


def _owes(answers: pa.Table | None) -> bool:
    return answers is None or any(status in RETRYABLE for status in answers["status"].to_pylist())
