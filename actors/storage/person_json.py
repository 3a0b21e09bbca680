"""JSON documents, one per person."""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from actors.attributes import AttributeSchema
from actors.records import ANSWERED, SCHEMA_VERSION
from actors.storage import layout
from actors.storage.tables import attributes_of

DOCUMENT_NAMES = {"smolvlm": "SmolVLM", "gemini": "GeminiVLM"}
"""Names of the annotators in the documents, which are those that the published prototype used."""


def person_documents(
    frames: pa.Table,
    persons: pa.Table,
    annotations: Mapping[str, pa.Table],
    schema: AttributeSchema,
) -> Iterator[tuple[str, bytes]]:
    """Yield the document of every kept person, in the order of the rows.

    Args:
        frames: Table with FRAMES_SCHEMA.
        persons: Table with PERSONS_SCHEMA. Dropped persons have no document.
        annotations: Table of each annotator by its name, with a row for every kept person.
        schema: The attributes.

    Yields:
        The path within the shard's folder, and the JSON bytes.
    """
    frame_rows = {row["frame_key"]: row for row in frames.to_pylist() if row["status"] == "ok"}
    schemas = {name: attributes_of(table, schema) for name, table in annotations.items()}
    answers = {
        name: {(row["frame_key"], row["person_index"]): row for row in table.to_pylist()}
        for name, table in annotations.items()
    }
    for person in persons.drop_columns(["crop"]).to_pylist():
        if not person["kept"]:
            continue
        frame = frame_rows[person["frame_key"]]
        key = (person["frame_key"], person["person_index"])
        captured_at = frame["captured_at"]
        document = {
            "schema_version": SCHEMA_VERSION,
            "shard": person["shard_id"],
            "frame": person["frame_key"],
            "frame_size": [frame["width"], frame["height"]],
            "camera": frame["camera"],
            "captured_at": captured_at.isoformat() if captured_at else None,
            "person_index": person["person_index"],
            "bbox": [round(value, 6) for value in person["bbox"]],
            "detection_score": round(person["score"], 6),
            "annotations": {
                DOCUMENT_NAMES[name]: _annotation(by_person[key], schemas[name])
                for name, by_person in answers.items()
            },
        }
        text = json.dumps(document, ensure_ascii=False, indent=2)
        yield layout.person_json_name(*key), text.encode()


def _annotation(row: Mapping[str, Any], schema: AttributeSchema) -> dict[str, Any]:
    document: dict[str, Any] = {"status": row["status"]}
    if row["status"] in ANSWERED:
        document |= schema.nest({name: row[name] for name in schema.names})
        confidence = {name: row[f"confidence_{name}"] for name in schema.names}
        document["confidence"] = {k: round(v, 6) for k, v in confidence.items() if v is not None}
        if row["reasoning"] is not None:
            document["reasoning"] = row["reasoning"]
    else:
        document["reason"] = row["reason"]
    if row["status"] == "inherited":
        document["reuse_group"] = row["reuse_group"]
        document["reuse_similarity"] = round(row["reuse_similarity"], 6)
    return document | {name: row[name] for name in ("model", "model_version", "prompt_sha256")}


def to_tar(documents: Iterator[tuple[str, bytes]]) -> bytes:
    """Return the documents as one tar. Equal documents give equal bytes."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in documents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return sink.getvalue()
