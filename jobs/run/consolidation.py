"""`shopframe consolidate`: one Parquet dataset of all committed shards, with the annotators side by side."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from actors.attributes import AttributeSchema
from actors.records import FRAMES_SCHEMA, PERSONS_SCHEMA, SCHEMA_VERSION
from actors.storage import layout
from actors.storage.commit_record import CommitRecord
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from actors.storage.tables import annotations_schema

_SHARDS_PER_FILE = 64
_KEYS = ["shard_id", "frame_key", "person_index"]
_FRAME_COLUMNS = ["camera", "captured_at", "width", "height"]
_PERSON_COLUMNS = ["bbox", "score"]


@dataclass(frozen=True, slots=True)
class Consolidated:
    """The result of `consolidate_output`: files, shards and persons in the dataset, and files written now."""

    files: int
    written: int
    shards: int
    persons: int


@dataclass(frozen=True, slots=True)
class _Source:
    """The objects of one committed shard that its consolidated rows are read from."""

    shard_id: str
    attempt_id: str
    paths: dict[str, str]
    persons: int


def consolidate_output(store: ObjectStore, schema: AttributeSchema) -> Consolidated:
    """Bring `consolidated/` up to date with the commit records.

    A file holds the rows of about 64 shards with consecutive ids, in one row group per shard. The hash of a
    shard's id decides whether it starts a new file, so a new shard changes only one file, and files whose
    shards are unchanged are not written again.

    Args:
        store: The output.
        schema: The attribute schema.
    """
    files: dict[str, list[_Source]] = {}
    annotators: set[str] = set()
    for sources in _file_groups(_source(r) for r, _ in read_records(store) if r.state == "done"):
        files[layout.consolidated_path(sources[0].shard_id)] = sources
        for source in sources:
            annotators |= {kind.partition("/")[2] for kind in source.paths if "/" in kind}
    columns = _schema(schema, sorted(annotators))
    wanted = {path: _identity(sources, columns) for path, sources in files.items()}
    present = {o.path for o in store.list(layout.CONSOLIDATED)}
    known = _read_index(store)
    outdated = [path for path, it in wanted.items() if known.get(path) != it or path not in present]
    # The index is deleted first: if the process is killed half way, all files count as outdated.
    if outdated:
        store.delete([layout.CONSOLIDATED_INDEX])
    for path in outdated:
        store.write(path, _file(store, files[path], columns, sorted(annotators)))
    store.delete(p for p in present if p not in wanted and p.endswith(".parquet"))
    store.write(layout.CONSOLIDATED_INDEX, json.dumps(wanted, indent=1).encode())
    everything = [source for sources in files.values() for source in sources]
    return Consolidated(len(files), len(outdated), len(everything), sum(s.persons for s in everything))


def _source(record: CommitRecord) -> _Source:
    paths = {o.kind: o.path for o in record.objects if o.kind in ("frames", "persons") or "/" in o.kind}
    return _Source(record.shard_id, record.attempt_id, paths, record.counts.kept)


def _file_groups(sources: Iterable[_Source]) -> Iterator[list[_Source]]:
    group: list[_Source] = []
    for source in sources:
        digest = hashlib.sha256(source.shard_id.encode()).digest()
        starts_file = int.from_bytes(digest[:4]) % _SHARDS_PER_FILE == 0
        if group and (starts_file or len(group) == 4 * _SHARDS_PER_FILE):
            yield group
            group = []
        group.append(source)
    if group:
        yield group


def _identity(sources: list[_Source], columns: pa.Schema) -> str:
    parts = [f"{s.shard_id} {s.attempt_id}" for s in sources]
    return hashlib.sha256("\n".join([str(columns), *parts]).encode()).hexdigest()


def _read_index(store: ObjectStore) -> dict[str, str]:
    try:
        return dict(json.loads(store.read(layout.CONSOLIDATED_INDEX)))
    except (FileNotFoundError, ValueError):
        return {}


def _schema(schema: AttributeSchema, annotators: list[str]) -> pa.Schema:
    fields = [PERSONS_SCHEMA.field(name) for name in _KEYS]
    fields += [FRAMES_SCHEMA.field(name) for name in _FRAME_COLUMNS]
    fields += [PERSONS_SCHEMA.field(name) for name in _PERSON_COLUMNS]
    for annotator in annotators:
        answers = [f for f in annotations_schema(schema, annotator) if f.name not in _KEYS]
        fields += [f.with_name(f"{annotator}_{f.name}").with_nullable(True) for f in answers]
    return pa.schema(fields, metadata={"schema_version": SCHEMA_VERSION})


def _file(
    store: ObjectStore,
    sources: list[_Source],
    columns: pa.Schema,
    annotators: list[str],
) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, columns, compression="zstd") as writer:
        for source in sources:
            table = _shard_rows(store, source, columns, annotators)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    return sink.getvalue()


def _shard_rows(store: ObjectStore, source: _Source, columns: pa.Schema, annotators: list[str]) -> pa.Table:
    frames = _read(store, source.paths["frames"], ["frame_key", *_FRAME_COLUMNS, "status"])
    persons = _read(store, source.paths["persons"], [*_KEYS, *_PERSON_COLUMNS, "kept"])
    by_frame = {row["frame_key"]: row for row in frames if row.pop("status") == "ok"}
    answers = {
        name: {
            (row["frame_key"], row["person_index"]): row
            for row in _read(store, source.paths[f"annotations/{name}"], None)
        }
        for name in annotators
        if f"annotations/{name}" in source.paths
    }
    rows = []
    for person in persons:
        if not person.pop("kept"):
            continue
        row = {**by_frame[person["frame_key"]], **person}
        for name, by_person in answers.items():
            answer = by_person[person["frame_key"], person["person_index"]]
            row |= {f"{name}_{key}": value for key, value in answer.items() if key not in _KEYS}
        rows.append(row)
    return pa.Table.from_pylist(rows, columns)


def _read(store: ObjectStore, path: str, columns: list[str] | None) -> list[dict[str, object]]:
    with store.open(path) as stream:
        rows: list[dict[str, object]] = pq.read_table(stream, columns=columns).to_pylist()
    return rows
