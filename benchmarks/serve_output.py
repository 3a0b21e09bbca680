"""Make an output with a consolidated table of many synthetic persons, and the frames of its first ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import Schema

from actors.attributes import AttributeSchema
from actors.commit.committed_shard import input_identity
from actors.read.listing import list_shards
from actors.records import Shard
from actors.storage import layout
from actors.storage.commit_record import CommitRecord, publish
from actors.storage.object_store import ObjectStore
from actors.storage.snapshot_table import NewFile, SnapshotTable
from actors.storage.tables import annotations_schema
from jobs.run.consolidated_rows import AnswerColumns
from jobs.run.run_record import PlanCounts, RunRecord, write_run
from jobs.settings import Settings

PERSONS_PER_FRAME = 5
FRAMES_PER_SHARD = 200
_SHARDS_PER_FILE = 64
_WIDTH_PX, _HEIGHT_PX = 1280, 720


def make_output(folder: Path, persons: int, shards_with_frames: int = 1) -> ObjectStore:
    """Write an output of two annotators, and return it.

    Args:
        folder: Where to write input and output.
        persons: Number of persons.
        shards_with_frames: Number of shards whose frames exist. The pictures of other persons are gone.
    """
    source, store = folder / "in", ObjectStore(str(folder / "out"))
    settings = Settings.model_validate({"input": {"uri": str(source)}, "output": {"uri": store.uri}})
    schema = AttributeSchema(settings.attributes)
    shards = -(-persons // (PERSONS_PER_FRAME * FRAMES_PER_SHARD))
    write_run(store, RunRecord(config=settings.as_dict(), fingerprints={}, plan=PlanCounts(shards=shards)))
    _write_frames(source, shards_with_frames)
    for shard in list_shards(settings.input, settings.storage):
        publish(store, _record(shard), replaces=None)
    columns = AnswerColumns()
    for annotator in ("smolvlm", "gemini"):
        columns.add(annotator, annotations_schema(schema, annotator))
    wanted = columns.person_columns(schema)
    table = SnapshotTable(store, layout.CONSOLIDATED)
    snapshot = table.read()
    added = []
    rng = np.random.default_rng(0)
    for first in range(0, shards, _SHARDS_PER_FILE):
        names = [_shard_id(number) for number in range(first, min(first + _SHARDS_PER_FILE, shards))]
        rows = _rows(names, wanted, schema, rng)
        name = layout.snapshot_file(names[0], f"{first:016x}", snapshot.version)
        path = Path(store.full(table.path_of(name)))
        pq.write_table(rows, path, compression="zstd", row_group_size=20_000)
        added.append(NewFile(name, path.stat().st_size, rows.num_rows, (names[0], names[-1])))
    table.commit(snapshot, Schema.from_arrow(wanted), added, (), made_for="")
    return store


def _shard_id(number: int) -> str:
    return f"shard-{number:06d}"


def _frame_key(number: int) -> str:
    return f"camera/2026-11-01/frame-{number:06d}"


def _write_frames(folder: Path, shards: int) -> None:
    folder.mkdir(parents=True)
    image = np.random.default_rng(1).integers(0, 256, (9, 16, 3), np.uint8)
    content = cv2.imencode(".jpg", cv2.resize(image, (_WIDTH_PX, _HEIGHT_PX)))[1].tobytes()
    for shard in range(shards):
        with tarfile.open(folder / f"{_shard_id(shard)}.tar", "w") as archive:
            for frame in range(FRAMES_PER_SHARD):
                member = tarfile.TarInfo(f"{_frame_key(frame)}.jpg")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _record(shard: Shard) -> CommitRecord:
    return CommitRecord(
        shard_id=shard.shard_id,
        state="done",
        attempt=1,
        attempt_id="001-00000000",
        input=input_identity(shard),
    )


def _rows(
    shard_ids: list[str], columns: pa.Schema, schema: AttributeSchema, rng: np.random.Generator
) -> pa.Table:
    count = PERSONS_PER_FRAME * FRAMES_PER_SHARD * len(shard_ids)
    number = np.arange(count)
    frame = number // PERSONS_PER_FRAME
    in_shard = frame % FRAMES_PER_SHARD
    corner = rng.uniform(0, 0.8, (count, 2))
    boxes = np.hstack([corner, corner + np.array([0.08, 0.2])]).astype(np.float32)
    keys = np.array([_frame_key(key) for key in range(FRAMES_PER_SHARD)])
    captured_s = 1_790_000_000 + 60 * frame
    values: dict[str, object] = {
        "shard_id": np.repeat(shard_ids, PERSONS_PER_FRAME * FRAMES_PER_SHARD),
        "frame_key": keys[in_shard],
        "person_index": (number % PERSONS_PER_FRAME).astype(np.int32),
        "camera": np.array([f"camera-{camera:02d}" for camera in range(40)])[frame % 40],
        "captured_at": pa.array(captured_s * 1_000_000, pa.timestamp("us", tz="UTC")),
        "width": np.full(count, _WIDTH_PX, np.int32),
        "height": np.full(count, _HEIGHT_PX, np.int32),
        "bbox": pa.FixedSizeListArray.from_arrays(boxes.ravel(), 4).cast(pa.list_(pa.float32())),
        "score": rng.uniform(0.25, 1, count).astype(np.float32),
        "is_person": np.full(count, True),
    }
    for annotator in ("smolvlm", "gemini"):
        values[f"{annotator}_status"] = np.full(count, "ok")
        values[f"{annotator}_model"] = np.full(count, annotator)
    for attribute in schema:
        allowed = pa.array(attribute.values, attribute.plain_arrow_type)
        # Ages lie close together, and a few values are rare.
        chosen = np.minimum(rng.geometric(0.4, count) - 1, len(allowed) - 1)
        again = np.where(rng.random(count) < 0.95, chosen, rng.integers(0, len(allowed), count))
        sure = rng.beta(8, 2, count).astype(np.float32)
        given = {"smolvlm": allowed.take(pa.array(chosen)), "gemini": allowed.take(pa.array(again))}
        for annotator, answers in given.items():
            values[f"{annotator}_{attribute.name}"] = answers
        values[f"smolvlm_confidence_{attribute.name}"] = sure
        values[attribute.name] = given["gemini"]
        values[f"{attribute.name}_source"] = np.where(chosen == again, "agreement", "gemini")
        values[f"{attribute.name}_confidence"] = pa.array(sure, mask=chosen != again)
    arrays = [
        pa.array(values[f.name], f.type) if f.name in values else pa.nulls(count, f.type) for f in columns
    ]
    return pa.table(arrays, schema=columns)
