"""Check the JSON documents of one shard against its commit record and its tables."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from actors.records import ANSWERED
from actors.storage import layout
from actors.storage.commit_record import CommitRecord
from actors.storage.flat_listing import list_flat
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.person_json import DOCUMENT_NAMES
from jobs.run.problem import Problem, write_documents_again
from jobs.run.words import counted, first_of

_NOT_ATTRIBUTES = frozenset(
    {
        "status",
        "reason",
        "confidence",
        "reasoning",
        "model",
        "model_version",
        "prompt_sha256",
        "attributes",
        "reuse_group",
        "reuse_similarity",
    }
)


def check_documents(
    store: ObjectStore, record: CommitRecord, tables: Mapping[str, pa.Table] | None, tar: bytes | None
) -> Iterator[Problem]:
    """Yield what is wrong with the documents of a shard, and the documents that its record doesn't explain.

    Args:
        store: The output.
        record: The shard's commit record.
        tables: The shard's tables by kind, or None to compare only numbers and sizes with the record.
        tar: The tar that the record names, if it names one that is sound.
    """
    folder = layout.json_folder(record.shard_id)
    if record.documents == "due":
        remedy = "run the same shopframe annotate command again: it writes them"
        yield Problem(record.shard_id, folder, "has documents that are still to be written", remedy)
        return
    listed = {
        info.path: info.size_bytes
        for info in list_flat(store, folder)
        if layout.shard_of_document(info.path) is not None
    }
    entry = record.object("json")
    if entry is None or entry.path != folder:
        if listed:
            yield unexplained(store, record.shard_id, folder, [*listed])
        if tar is not None and tables is not None and {"frames", "persons"} <= tables.keys():
            yield from _check_contents(
                store, record, layout.json_tar_path(record.shard_id), tables, _untar(tar)
            )
        return
    if tables is None:
        if (len(listed), sum(listed.values())) != (entry.count, entry.size_bytes):
            has = f"{counted(len(listed), 'document')} with {sum(listed.values()):,} bytes"
            problem = (
                f"holds {has}, but the commit record counts {entry.count:,} with {entry.size_bytes:,} bytes"
            )
            yield Problem(
                record.shard_id, folder, problem, "run shopframe verify without --quick to see which"
            )
        return
    if "persons" not in tables or "frames" not in tables:
        return
    wanted = {f"{folder}/{name}" for name in _rows_by_document(tables["persons"])}
    strange = sorted(listed.keys() - wanted)
    if strange:
        yield unexplained(store, record.shard_id, folder, strange)
    present = sorted(listed.keys() & wanted)
    read = zip(present, map_ahead(lambda path: read_if_there(store, path), present), strict=True)
    contents = {path[len(folder) + 1 :]: content for path, content in read if content is not None}
    wrong = list(_check_contents(store, record, folder, tables, contents))
    yield from wrong
    if not wrong and _digest(contents) != entry.sha256:
        yield Problem(
            record.shard_id,
            folder,
            "holds other bytes than were committed",
            write_documents_again(store, record.shard_id),
        )


def read_if_there(store: ObjectStore, path: str) -> bytes | None:
    """Return the content of an object, or None if it doesn't exist."""
    try:
        return store.read(path)
    except FileNotFoundError:
        return None


def unexplained(store: ObjectStore, shard_id: str, path: str, names: list[str]) -> Problem:
    """Return the problem of documents that no commit record explains."""
    shown = "" if names == [path] else f": {first_of(names)}"
    return Problem(
        shard_id,
        path,
        f"holds documents that no commit record explains{shown}",
        f"run shopframe clean --output {store.uri}",
    )


def _check_contents(
    store: ObjectStore,
    record: CommitRecord,
    path: str,
    tables: Mapping[str, pa.Table],
    contents: Mapping[str, bytes],
) -> Iterator[Problem]:
    """Compare documents, given by their names within the folder or tar, with the tables of their shard."""
    persons = _rows_by_document(tables["persons"])
    missing = sorted(persons.keys() - contents.keys())
    if missing:
        problem = f"lacks {len(missing):,} of {counted(len(persons), 'document')}: {first_of(missing)}"
        yield Problem(record.shard_id, path, problem, write_documents_again(store, record.shard_id))
    strange = sorted(contents.keys() - persons.keys())
    if strange:
        problem = (
            f"holds {counted(len(strange), 'document')} without a person in the tables: {first_of(strange)}"
        )
        yield Problem(record.shard_id, path, problem, write_documents_again(store, record.shard_id))
    expected = _Expected(tables)
    differing = [
        name
        for name in sorted(contents.keys() & persons.keys())
        if not expected.equals(persons[name], contents[name])
    ]
    if differing:
        problem = f"holds {counted(len(differing), 'document')} unlike the tables: {first_of(differing)}"
        yield Problem(record.shard_id, path, problem, write_documents_again(store, record.shard_id))


class _Expected:
    """What the tables of a shard say about each person."""

    def __init__(self, tables: Mapping[str, pa.Table]) -> None:
        self._frames = {
            row["frame_key"]: row for row in tables["frames"].to_pylist() if row["status"] == "ok"
        }
        self._answers: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
        self._attributes: dict[str, list[str]] = {}
        for kind, table in tables.items():
            if kind.startswith("annotations/"):
                name = DOCUMENT_NAMES[kind.partition("/")[2]]
                rows = table.to_pylist()
                self._answers[name] = {(row["frame_key"], row["person_index"]): row for row in rows}
                columns = table.column_names
                self._attributes[name] = [c for c in columns if f"confidence_{c}" in columns]

    def equals(self, person: Mapping[str, Any], content: bytes) -> bool:
        """Return whether a document says of a person what the tables say."""
        try:
            document = json.loads(content)
            annotations = document["annotations"]
            return (
                all(document[key] == value for key, value in self._plain(person).items())
                and annotations.keys() == self._answers.keys()
                and all(self._same_answer(name, person, said) for name, said in annotations.items())
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return False

    def _plain(self, person: Mapping[str, Any]) -> dict[str, Any]:
        frame = self._frames[person["frame_key"]]
        captured_at = frame["captured_at"]
        return {
            "shard": person["shard_id"],
            "frame": person["frame_key"],
            "person_index": person["person_index"],
            "frame_size": [frame["width"], frame["height"]],
            "camera": frame["camera"],
            "captured_at": captured_at.isoformat() if captured_at else None,
            "bbox": [round(value, 6) for value in person["bbox"]],
            "detection_score": round(person["score"], 6),
        }

    def _same_answer(self, name: str, person: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
        row = self._answers[name][person["frame_key"], person["person_index"]]
        if any(said[key] != row[key] for key in ("status", "model", "model_version", "prompt_sha256")):
            return False
        if row["status"] not in ANSWERED:
            return bool(said["reason"] == row["reason"])
        if row["status"] == "inherited" and (said["reuse_group"], said["reuse_similarity"]) != (
            row["reuse_group"],
            round(row["reuse_similarity"], 6),
        ):
            return False
        flat = {key: value for key, value in said.items() if key not in _NOT_ATTRIBUTES}
        flat |= said.get("attributes", {})
        confidence = {a: row[f"confidence_{a}"] for a in self._attributes[name]}
        return (
            flat == {a: row[a] for a in self._attributes[name]}
            and said.get("reasoning") == row["reasoning"]
            and said["confidence"] == {a: round(c, 6) for a, c in confidence.items() if c is not None}
        )


def _rows_by_document(persons: pa.Table) -> dict[str, dict[str, Any]]:
    """Return the kept persons by the names of their documents within the folder or tar."""
    rows = persons.filter(persons["kept"]).drop_columns(["crop"]).to_pylist()
    return {layout.person_json_name(row["frame_key"], row["person_index"]): row for row in rows}


def _untar(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def _digest(contents: Mapping[str, bytes]) -> str:
    lines = (f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in sorted(contents.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
