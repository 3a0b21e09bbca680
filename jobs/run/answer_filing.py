"""File the answers of committed shards in the index, where every later run finds them by their crops."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from actors.attribute import DISTRIBUTION_PREFIX
from actors.attributes import AttributeSchema
from actors.fingerprint import question_of
from actors.gemini.answer_journal import file_journal
from actors.records import GIVEN, Annotation, Distribution, is_denied
from actors.storage import layout
from actors.storage.answer_index import KeptAnswer
from actors.storage.answers_in_flight import IndexName, add_answers, file_in_flight
from actors.storage.commit_record import CommitRecord
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import list_records, read_some_records
from actors.storage.tables import attributes_of, from_parquet
from jobs.run.consolidated_rows import read_current

_ANSWERS_IN_MEMORY = 50_000
_NO_ATTRIBUTES = AttributeSchema.from_json("[]")
_PROVENANCE = ("model", "model_version", "prompt_sha256", "input_tokens", "output_tokens", "cost_usd")
_DAMAGE = (FileNotFoundError, pa.ArrowInvalid)


def _distribution(row: Mapping[str, Any], names: Collection[str]) -> dict[str, Distribution]:
    found = {name: row.get(f"{DISTRIBUTION_PREFIX}{name}") for name in names}
    return {
        name: tuple((entry["value"], entry["probability"]) for entry in shares)
        for name, shares in found.items()
        if shares is not None
    }


def file_uncommitted(store: ObjectStore) -> None:
    """File the answers of shards in progress and of requests, wherever their shards are now.

    Raises:
        OutputError: An object in the output can't be read by this version.
        OSError: The store can't be read or written.
    """
    file_journal(store)
    file_in_flight(store)


def file_answers(store: ObjectStore, only: Collection[str] | None = None) -> None:
    """File the answers of committed shards that are not filed yet.

    A list in the output says which commit records are filed. If it is lost, or another run overwrites it,
    some answers are filed again, which does no harm.

    Args:
        store: The output.
        only: Ids of the shards to look at, or None for all of them.

    Raises:
        OutputError: An object in the output can't be read by this version.
        OSError: The store can't be read or written.
    """
    records = {shard_id: _stamp(shard_id, etag) for shard_id, etag in list_records(store)}
    filed = _read_filed(store)
    known = np.isin(np.fromiter(records.values(), np.uint64, len(records)), filed, kind="sort")
    missing = [
        shard_id
        for shard_id, is_known in zip(records, known, strict=True)
        if not is_known and (only is None or shard_id in only)
    ]
    damaged: set[str] = set()
    waiting: defaultdict[IndexName, list[KeptAnswer]] = defaultdict(list)
    count = 0
    for shard_id, answers in map_ahead(
        lambda record: (record.shard_id, _answers(store, record)),
        read_some_records(store, missing, len(records)),
    ):
        if answers is None:
            damaged.add(shard_id)
            continue
        for index, answer in answers:
            waiting[index].append(answer)
        count += len(answers)
        if count >= _ANSWERS_IN_MEMORY:
            add_answers(store, waiting)
            waiting.clear()
            count = 0
    add_answers(store, waiting)
    if missing:
        present = np.fromiter(records.values(), np.uint64, len(records))
        new = np.array([records[shard_id] for shard_id in missing if shard_id not in damaged], np.uint64)
        _write_filed(store, np.union1d(np.intersect1d(present, filed), new))


def _stamp(shard_id: str, etag: str) -> int:
    """Return a number that stands for one version of a commit record."""
    return int.from_bytes(hashlib.sha256(f"{shard_id} {etag}".encode()).digest()[:8])


def _read_filed(store: ObjectStore) -> npt.NDArray[np.uint64]:
    try:
        table = pq.read_table(pa.BufferReader(store.read(layout.ANSWERS_FILED)))
    except FileNotFoundError:
        return np.zeros(0, np.uint64)
    found: npt.NDArray[np.uint64] = table["record"].to_numpy()
    return found


def _write_filed(store: ObjectStore, stamps: npt.NDArray[np.uint64]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"record": pa.array(stamps, pa.uint64())}), sink, compression="zstd")
    store.write(layout.ANSWERS_FILED, bytes(sink.getvalue()))


def _answers(store: ObjectStore, record: CommitRecord) -> list[tuple[IndexName, KeptAnswer]] | None:
    """Return the answers of a shard, none if it was deleted meanwhile, or None if it is damaged."""
    try:
        found = read_current(store, record, lambda newest: list(_answers_of(store, newest)))
    except _DAMAGE:
        return None
    return [] if found is None else found[1]


def _answers_of(store: ObjectStore, record: CommitRecord) -> Iterator[tuple[IndexName, KeptAnswer]]:
    persons = record.object("persons")
    if record.state != "done" or persons is None:
        return
    with store.open(persons.path) as stream, pq.ParquetFile(stream) as file:
        if "crop_sha256" not in file.schema_arrow.names:
            return
        rows = file.read(["frame_key", "person_index", "crop_sha256"], use_threads=False).to_pylist()
    digests = {(row["frame_key"], row["person_index"]): row["crop_sha256"] for row in rows}
    for entry in record.objects:
        folder, _, annotator = entry.kind.partition("/")
        fingerprint = record.fingerprints.get(annotator)
        if folder != "annotations" or fingerprint is None:
            continue
        table = from_parquet(store.read(entry.path))
        names = attributes_of(table, _NO_ATTRIBUTES).names
        if not names:  # The table is of a version that didn't say what was asked.
            continue
        for row in table.to_pylist():
            digest = digests.get((row["frame_key"], row["person_index"]))
            if digest is None or row["status"] not in GIVEN or is_denied(row["status"], row["reason"]):
                continue
            annotation = Annotation(
                status=row["status"],
                reason=row["reason"],
                values={name: row[name] for name in names},
                confidence={n: row[f"confidence_{n}"] for n in names if row[f"confidence_{n}"] is not None},
                reasoning=row["reasoning"],
                distribution=_distribution(row, names),
            )
            provenance = {name: row[name] for name in _PROVENANCE if name in row}
            yield (
                (annotator, question_of(fingerprint)),
                KeptAnswer(digest, record.shard_id, annotation, provenance),
            )
