"""A Delta Lake table of derived rows: a transaction replaces whole files, and readers see all or nothing.

The files are written here, in the order that the caller chooses, and named by what they were made from
(`layout.snapshot_file`), so the list of a snapshot's files says what is up to date. The transactions, the
list of files and the history are those of delta-rs.

A transaction succeeds only at the version that follows the one it was begun at. The name of a file contains
that version, so a file that isn't in the table is known to be a leftover as soon as the table is newer: its
writer can't commit it any more.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from actors.errors import OutputError, PreconditionError, StoreError
from actors.storage import layout
from actors.storage.object_store import ObjectStore

_PROTOCOLS = frozenset({"file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Protocols that fsspec and delta-rs both know, by the same URI."""

# Checkpoints are Parquet files below the table's folder, where a glob would find them beside the rows.
_CONFIGURATION: dict[str, str | None] = {"delta.checkpointInterval": "1000000000"}


_MADE_FOR = "shopframe.made_for"


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to add to the table.

    Attributes:
        name: Its name in the table's folder, from `layout.snapshot_file`.
        size_bytes: Its size.
        rows: Number of its rows.
        shard_ids: Smallest and largest shard id of its rows, or None if it has no rows.
    """

    name: str
    size_bytes: int
    rows: int
    shard_ids: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of the table.

    Attributes:
        table: The table at this version.
        version: Number of the version.
        schema: Columns of the table.
        files: Maps the digest in a file's name to the name, for files that are there.
        rows: Number of rows of each file that the version consists of, by name.
        unfinished: Whether there are files that another transaction may still be about to commit.
        made_for: What `commit` was given as `made_for`, or None for a version without it.
    """

    table: DeltaTable
    version: int
    schema: Schema
    files: dict[str, str]
    rows: dict[str, int]
    unfinished: bool
    made_for: str | None


def check_supported(store: ObjectStore) -> None:
    """Check that delta-rs can write tables to a store.

    Raises:
        OutputError: It can't; the message gives the remedy.
    """
    protocol = store.uri.partition("://")[0] if "://" in store.uri else "file"
    if protocol not in _PROTOCOLS:
        what = "delta-rs writes to folders, s3://, gs:// and abfs:// only"
    elif store.is_local and "%" in store.uri_of(layout.CONSOLIDATED):
        what = "delta-rs can't write to a folder with % in its path"
    else:
        return
    raise OutputError(
        f"output.uri: {store.uri}: {layout.CONSOLIDATED}/ is a Delta Lake table, and {what}; choose another "
        "output, or set output.consolidate=false and read the tables that the commit records name"
    )


class SnapshotTable:
    """The table in one folder of an output.

    Every method raises:
        StoreError: The table can't be read or written.
        OSError: The store can't be reached or refuses.
    """

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store = store
        self.folder = folder
        self._uri = store.uri_of(folder)
        self._options = _storage_options(store)

    def path_of(self, name: str) -> str:
        """Return the path of a file in the output."""
        return f"{self.folder}/{name}"

    def read(self) -> Snapshot:
        """Return the newest version. A table that doesn't exist is created, without rows."""
        with self._errors():
            table = self._open()
            version = table.version()
            actions = pa.table(table.get_add_actions())
            schema = table.schema()
            # A store whose listings are behind may show a table and none of its commits.
            made_for = next((entry.get(_MADE_FOR) for entry in table.history(1)), None)
        rows = dict(zip(actions["path"].to_pylist(), actions["num_records"].to_pylist(), strict=True))
        prefix = f"{self.folder}/"
        present = {found.path.removeprefix(prefix) for found in self._store.list(self.folder)}
        named = {name: layout.parse_snapshot_file(name) for name in present}
        return Snapshot(
            table=table,
            version=version,
            schema=schema,
            files={it.digest: name for name, it in named.items() if it is not None and name in rows},
            rows=rows,
            unfinished=any(
                it is not None and it.base_version >= version and name not in rows
                for name, it in named.items()
            ),
            made_for=made_for,
        )

    def paths(self) -> list[str] | None:
        """Return the paths in the output of the newest version's files, or None if there is no table."""
        with self._errors():
            try:
                table = DeltaTable(self._uri, storage_options=self._options)
            except TableNotFoundError:
                return None
            return sorted(map(self.path_of, pa.table(table.get_add_actions())["path"].to_pylist()))

    def made_for(self) -> str | None:
        """Return what `commit` was given as `made_for` for the newest version, or None without a table."""
        with self._errors():
            try:
                table = DeltaTable(self._uri, storage_options=self._options)
            except TableNotFoundError:
                return None
            found: str | None = table.history(1)[0].get(_MADE_FOR)
        return found

    def commit(
        self,
        snapshot: Snapshot,
        schema: Schema,
        added: Sequence[NewFile],
        kept: Collection[str],
        made_for: str,
    ) -> None:
        """Make a new version of files that are kept from a snapshot and files that are added.

        Args:
            snapshot: The version that the new one follows.
            schema: Columns of the new version. Files can be kept only if these are the snapshot's.
            added: Files that were written to the table's folder.
            kept: Names of files of the snapshot.
            made_for: What the version depends on beside the files; stored with it.

        Raises:
            PreconditionError: Another transaction was faster. The added files count for nothing.
        """
        now_ms = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [_add_action(new, now_ms) for new in added]
        mode = "append"
        if schema == snapshot.schema:
            gone = sorted(snapshot.rows.keys() - set(kept))
            actions += [
                RemoveAction(name, data_change=True, deletion_timestamp=now_ms, partition_values={})
                for name in gone
            ]
        else:
            if kept:
                raise ValueError("files can't be kept when the columns change")
            mode = "overwrite"
        with self._errors():
            # Without retries of its own, delta-rs commits at the next version or not at all.
            snapshot.table.create_write_transaction(
                actions,
                mode,
                schema,
                commit_properties=CommitProperties({_MADE_FOR: made_for}, max_commit_retries=0),
            )

    def vacuum(self, keep_versions_days: float) -> None:
        """Delete the files of versions that were replaced longer ago, and those of failed transactions.

        Args:
            keep_versions_days: Days for which a replaced version stays readable.
        """
        with self._errors():
            table = self._open()
            found = table.vacuum(
                retention_hours=math.ceil(keep_versions_days * 24),
                enforce_retention_duration=False,
                full=True,
            )
            version = table.version()
        parsed = {name: layout.parse_snapshot_file(name) for name in found}
        dead = [name for name, it in parsed.items() if it is None or it.base_version < version]
        self._store.delete(self.path_of(name) for name in dead)

    def _open(self) -> DeltaTable:
        try:
            return DeltaTable(self._uri, storage_options=self._options)
        except TableNotFoundError:
            first = Schema.from_arrow(pa.schema([("shard_id", pa.string())]))
            return DeltaTable.create(
                self._uri,
                first,
                mode="ignore",
                configuration=_CONFIGURATION,
                storage_options=self._options,
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except CommitFailedError as error:
            raise PreconditionError(f"{self._uri} was changed by another transaction") from error
        except DeltaError as error:
            raise StoreError(
                f"{self._uri}: can't be used as a Delta Lake table: {_one_line(error)}; it is derived from "
                "the commit records: if it is damaged, delete the folder and run shopframe consolidate"
            ) from error
        except OSError as error:
            raise StoreError(f"{self._uri}: {_one_line(error)}") from error


def _add_action(new: NewFile, now_ms: int) -> AddAction:
    statistics: dict[str, object] = {"numRecords": new.rows}
    if new.shard_ids is not None:
        statistics["minValues"] = {"shard_id": new.shard_ids[0]}
        statistics["maxValues"] = {"shard_id": new.shard_ids[1]}
        statistics["nullCount"] = {"shard_id": 0}
    return AddAction(
        path=new.name,
        size=new.size_bytes,
        partition_values={},
        modification_time=now_ms,
        data_change=True,
        stats=json.dumps(statistics),
    )


def _storage_options(store: ObjectStore) -> dict[str, str]:
    """Return delta-rs's options for a store. It takes keys and region from the environment by itself."""
    if store.is_local:
        return {}
    settings = store.settings
    options = {
        "max_retries": str(settings.retries),
        "timeout": f"{settings.timeout_s}s",
        "connect_timeout": f"{min(10.0, settings.timeout_s)}s",
    }
    if store.uri.startswith(("s3:", "s3a:")):
        options["AWS_CONDITIONAL_PUT"] = "etag"
        endpoint = settings.s3_endpoint or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint is not None:
            # This variable of the environment comes before the option AWS_ENDPOINT_URL.
            options["AWS_ENDPOINT_URL_S3"] = endpoint
            options["AWS_ALLOW_HTTP"] = str(endpoint.startswith("http://")).lower()
        if settings.anon:
            options["AWS_SKIP_SIGNATURE"] = "true"
    return options


def _one_line(error: BaseException) -> str:
    """Return a message of delta-rs without its colours, arrows and line breaks."""
    plain = re.sub(r"\x1b\[[0-9;]*m|↳", "", str(error))
    return ": ".join(line.strip() for line in plain.splitlines() if line.strip())[:500]
