"""What a run leaves, in a form that is equal for a disturbed and an undisturbed run."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from actors.storage.snapshot_table import SnapshotTable
from actors.storage.tables import from_parquet
from tests.support import without_ray
from tests.support.consolidating import TABLES, in_order

_OF_ATTEMPTS = ("frames", "persons", "annotations", "previews")
"""Folders whose objects have an attempt in their names, and so belong to a record or are left over."""

_ABOUT_THE_ATTEMPT = ("attempt", "attempt_id", "committed_at", "latency_s", "cost_usd")


def outcome(output: str) -> dict[str, Any]:
    """Return tables, documents and snapshots of an output; equal runs have equal ones."""
    store = ObjectStore(output)
    records = [record for record, _ in read_records(store)]
    tables: dict[str, list[pa.Table]] = {}
    for record in records:
        for entry in record.objects:
            if entry.kind in ("frames", "persons") or entry.kind.startswith("annotations/"):
                tables.setdefault(entry.kind, []).append(from_parquet(store.read(entry.path)))
    found: dict[str, Any] = {
        kind: in_order(pa.concat_tables(t.unify_dictionaries() for t in parts).to_pylist())
        for kind, parts in tables.items()
    }
    found["shards"] = {record.shard_id: (record.state, record.counts) for record in records}
    found["documents"] = {info.path: store.read(info.path) for info in store.list("json")}
    for folder in TABLES:
        paths = SnapshotTable(store, folder).paths() or []
        rows = [row for path in paths for row in pq.read_table(store.open(path)).to_pylist()]
        found[folder] = in_order(
            [{key: value for key, value in row.items() if key not in _ABOUT_THE_ATTEMPT} for row in rows]
        )
    return found


def assert_whole(output: str, expected: dict[str, Any]) -> None:
    """Assert that an output equals an undisturbed one, is sound, and that `clean` leaves nothing over."""
    without_ray.command("verify", "--output", output)
    found = outcome(output)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name] == content, name
    without_ray.command("clean", "--output", output, "--older-than-hours", 0)
    store = ObjectStore(output)
    named = {entry.path for record, _ in read_records(store) for entry in record.objects}
    left = {info.path for folder in _OF_ATTEMPTS for info in store.list(folder)} - named
    assert not left
    assert outcome(output) == expected
