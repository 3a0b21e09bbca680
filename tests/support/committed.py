"""Write outputs with hand-made contents, using the code that commits shards in a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.commit.committer import Committer
from actors.commit.settings import OutputSettings
from actors.fingerprint import crop_sha256
from actors.read.listing import list_shards
from actors.records import FRAMES_SCHEMA, PERSONS_SCHEMA, Annotation, Distribution, Shard
from actors.shard_block import ShardBlock, ShardTask
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore
from actors.storage.tables import annotations_table
from jobs.run.run_record import PlanCounts, RunRecord, write_run
from jobs.settings import Settings

SCHEMA = AttributeSchema(SchemaSettings())
FRAME_WIDTH_PX = 2000
FRAME_HEIGHT_PX = 1000
_FINGERPRINTS = {"detect": "d", "person_json": "p", "smolvlm": "s", "gemini": "g"}


@dataclass(frozen=True)
class Found:
    """A detection. `answers` maps annotators to their answers; a person without an answer is pending."""

    bbox: Sequence[float]
    score: float = 0.5
    kept: bool = True
    crop: bytes = b"crop"
    answers: Mapping[str, Annotation] = field(default_factory=dict)


def said(
    confidence: Mapping[str, float] | None = None,
    distribution: Mapping[str, Distribution] | None = None,
    **values: Any,
) -> Annotation:
    """Return an `ok` answer; attributes that aren't given have their first value in the schema."""
    return Annotation(
        "ok",
        values={a.name: a.values[0] for a in SCHEMA} | values,
        confidence=dict(confidence or {}),
        distribution=dict(distribution or {}),
    )


def write_output(
    store: ObjectStore,
    shards: Mapping[str, Mapping[str, Sequence[Found] | str]],
    settings: Settings | None = None,
    errors: Mapping[str, str] | None = None,
    cameras: Mapping[str, str] | None = None,
    fingerprints: Mapping[str, str] | None = None,
    times: Mapping[str, datetime] | None = None,
    **output: Any,
) -> None:
    """Commit shards, over earlier commits if there are any.

    Args:
        store: The output.
        shards: Maps a shard to its frames. A frame's key maps to its persons, or to the error if it failed.
        settings: The settings of the run, whose attributes every annotator answers. With an input, shards are
            those that it has under these names.
        errors: Maps a shard that fails to the reason.
        cameras: Maps frames to their cameras. Other frames name none.
        fingerprints: Maps each stage to the hash of what its results depend on; by default, to one letter.
        times: Maps frames to their times. Other frames have none.
        output: Settings of the output.
    """
    settings = settings or Settings()
    sources = {}
    if settings.input.uri is not None:
        sources = {shard.shard_id: shard for shard in list_shards(settings.input, settings.storage)}
    schema = AttributeSchema(settings.attributes)
    stages = dict(fingerprints or _FINGERPRINTS)
    run = RunRecord(config=settings.as_dict(), fingerprints=stages, plan=PlanCounts(shards=len(shards)))
    write_run(store, run)
    for shard_id, frames in shards.items():
        found = read_record(store, shard_id)
        block = _block(shard_id, frames, schema, (errors or {}).get(shard_id), cameras or {}, times or {})
        if shard_id in sources:
            block = replace(block, task=replace(block.task, shard=sources[shard_id]))
        if found is not None:
            again = replace(block.task, replaces=found[0].attempt_id, attempt=found[0].attempt + 1)
            block = replace(block, task=again)
        Committer(store, OutputSettings(**output), schema, stages).commit(block)


def _block(
    shard_id: str,
    frames: Mapping[str, Sequence[Found] | str],
    schema: AttributeSchema,
    error: str | None,
    cameras: Mapping[str, str],
    times: Mapping[str, datetime],
) -> ShardBlock:
    frame_rows, person_rows = [], []
    found: list[Found] = []
    for key, persons in sorted(frames.items()):
        row = {"shard_id": shard_id, "frame_key": key, "detected": 0, "kept": 0, "camera": cameras.get(key)}
        row["captured_at"] = times.get(key)
        if isinstance(persons, str):
            frame_rows.append(row | {"status": "error", "error": persons})
            continue
        counts = {"detected": len(persons), "kept": sum(p.kept for p in persons)}
        frame_rows.append(row | counts | {"status": "ok", "width": FRAME_WIDTH_PX, "height": FRAME_HEIGHT_PX})
        for index, person in enumerate(sorted(persons, key=lambda p: -p.score)):
            found.append(person)
            person_rows.append(
                {
                    "shard_id": shard_id,
                    "frame_key": key,
                    "person_index": index,
                    "bbox": np.array(person.bbox, np.float32),
                    "score": person.score,
                    "kept": person.kept,
                    "drop_reason": None if person.kept else "min_height",
                    "crop": person.crop if person.kept else None,
                    "crop_sha256": crop_sha256(person.crop) if person.kept else None,
                }
            )
    persons_table = pa.Table.from_pylist(person_rows, PERSONS_SCHEMA)
    kept = [p for p in found if p.kept]
    names = sorted({name for p in kept for name in p.answers})
    provenance: dict[str, Any] = {"model": "m", "model_version": "1", "prompt_sha256": "x"}
    is_grouped = any(answer.status == "inherited" for p in kept for answer in p.answers.values())
    if is_grouped:
        provenance |= {"reuse_group": "a group", "reuse_similarity": 0.9}
    annotations = {
        name: annotations_table(
            persons_table.filter(persons_table["kept"]),
            [p.answers.get(name, Annotation("pending")) for p in kept],
            schema,
            provenance,
            name,
            is_grouped,
        )
        for name in names
    }
    task = ShardTask(Shard(shard_id, f"in/{shard_id}.tar", "webdataset", "etag", 10), "detect")
    return ShardBlock(
        task,
        pa.Table.from_pylist(frame_rows, FRAMES_SCHEMA),
        persons_table,
        annotations,
        tuple(names),
        error=error,
    )


def write_truth(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return path


def persons_and_answers(found: Sequence[Found]) -> Mapping[str, pa.Table]:
    """Return the tables of annotations of one frame with these persons, by annotator."""
    return _block("s", {"f": found}, SCHEMA, None, {}, {}).annotations
