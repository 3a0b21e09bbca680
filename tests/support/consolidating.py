"""Outputs that are consolidated in tests, and how their tables are read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable

from actors.attributes import AttributeSchema
from actors.storage.object_store import ObjectStore
from jobs.run.consolidated_groups import starts_file
from jobs.run.consolidation import Consolidated, consolidate_output
from jobs.settings import Settings
from tests.support import job
from tests.support.committed import Found, said

BOX = (0.1, 0.1, 0.4, 0.9)
TABLES = ("consolidated", "consolidated_frames")
FIRST = [name for name in (f"shard-{n:03d}" for n in range(1000)) if starts_file(name)][:3]
"""Shards that each begin a file."""


def person(**values: Any) -> Found:
    """A person whom SmolVLM gave these answers and otherwise the usual ones."""
    return Found(BOX, answers={"smolvlm": said(**values)})


def one(**values: Any) -> dict[str, Any]:
    """A shard of one frame with one person."""
    return {"f": [person(**values)]}


def settings(**attributes: Any) -> Settings:
    """Settings with the default attributes and others, or without those that are None."""
    defaults = Settings().attributes.attributes
    return Settings.model_validate({"schema": {"attributes": {**defaults, **attributes}}})


def consolidate(
    store: ObjectStore, keep_versions_days: float = 0, of: Settings | None = None
) -> Consolidated:
    """Consolidate an output, by default with the default settings."""
    chosen = of or Settings()
    schema = AttributeSchema(chosen.attributes)
    return consolidate_output(store, schema, chosen.consensus, keep_versions_days)


def globbed(store: ObjectStore, folder: str = "consolidated") -> list[dict[str, Any]]:
    """The rows that somebody with nothing but DuckDB sees."""
    table = duckdb.sql(f"SELECT * FROM '{store.root}/{folder}/**/*.parquet'").to_arrow_table()
    return in_order(table.to_pylist())


def snapshot(
    store: ObjectStore, folder: str = "consolidated", version: int | None = None
) -> list[dict[str, Any]]:
    """The rows that a reader of Delta Lake sees."""
    return in_order(DeltaTable(store.uri_of(folder), version=version).to_pyarrow_table().to_pylist())


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order of their keys."""
    return sorted(rows, key=lambda row: [row[key] for key in job.ROW_KEYS if key in row])


def files_of(store: ObjectStore, folder: str) -> set[str]:
    """Names of the files of a table."""
    return {path.name for path in Path(store.root, folder).glob("*.parquet")}


def shards(names: str, persons: int = 2) -> dict[str, Any]:
    """Shards of one readable frame with persons, and one that is torn."""
    return {name: {"f": [person()] * persons, "torn": "truncated"} for name in names}


def persons_of(store: ObjectStore) -> dict[str, int]:
    """Number of persons by shard, which must be the same in the glob and in the snapshot."""
    rows = globbed(store)
    assert rows == snapshot(store)
    assert globbed(store, "consolidated_frames") == snapshot(store, "consolidated_frames")
    names = [row["shard_id"] for row in rows]
    return {name: names.count(name) for name in names}


def consolidate_all_at_once(store: ObjectStore, number: int = 4) -> None:
    """Consolidate an output of five shards from several threads at once."""
    with ThreadPoolExecutor(number) as pool:
        found = [pool.submit(consolidate, ObjectStore(store.uri)) for _ in range(number)]
        assert {it.result().shards for it in found} == {5}
