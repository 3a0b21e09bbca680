"""An output that has something of each person in every place where an output keeps anything about persons."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np

from actors.corrections.decision import Decision
from actors.corrections.decision_log import append
from actors.corrections.settings import ConsensusSettings
from actors.fingerprint import crop_sha256
from actors.gemini.answer_journal import JournalEntry, write_journal
from actors.gemini.api.packing import Crop
from actors.gemini.batch_records import BatchCrop, BatchRecord, create_batch
from actors.gemini.egress_log import egress_of, merge_egress, record_egress
from actors.gemini.protocol import AskedCrop
from actors.storage import layout
from actors.storage.answer_index import AnswerIndex, KeptAnswer
from actors.storage.answers_in_flight import write_in_flight
from actors.storage.object_store import ObjectStore
from jobs.run.answer_filing import file_answers
from jobs.run.consolidation import consolidate_output
from tests.erase.found import Person
from tests.support.committed import SCHEMA, Found, said, write_output

BOXES = ((0.1, 0.1, 0.3, 0.9), (0.5, 0.1, 0.7, 0.9))
TIMES = {"f1": datetime(2026, 1, 1, tzinfo=UTC), "f2": datetime(2026, 3, 1, tzinfo=UTC)}
CAMERAS = {"f1": "door", "f2": "till"}
QUESTION = "f" * 64


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 12, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


PERSONS = tuple(
    Person(shard_id, key, index, jpeg(number * 10 + index))
    for number, (shard_id, key) in enumerate([("a", "f1"), ("a", "f2"), ("b", "f2")])
    for index in (0, 1)
)


def fill(store: ObjectStore, **output: Any) -> None:
    """Write an output of two shards and three frames with two persons each."""
    answers = {"smolvlm": said({"gender": 0.75}, gender="male"), "gemini": said(gender="female")}
    frames: dict[str, dict[str, list[Found]]] = {"a": {}, "b": {}}
    for person in PERSONS:
        found = Found(BOXES[person.index], 0.9 - person.index / 10, crop=person.crop, answers=answers)
        frames[person.shard_id].setdefault(person.frame_key, []).append(found)
    write_output(store, frames, cameras=CAMERAS, times=TIMES, keep_crops="always", **output)
    file_answers(store)
    consolidate_output(store, SCHEMA, ConsensusSettings(), keep_versions_days=30)
    for person in PERSONS:
        _leave_traces(store, person)
    for shard_id in "ab":
        _preview(store, shard_id, "f2")
    consolidate_output(store, SCHEMA, ConsensusSettings(), keep_versions_days=30)
    batch = BatchRecord(
        name="job",
        fingerprint=QUESTION,
        created_at="2026-03-01T00:00:00+00:00",
        seed=1,
        requests=(
            tuple(
                BatchCrop(shard_id=p.shard_id, key=p.person_id, crop_sha256=crop_sha256(p.crop))
                for p in PERSONS
            ),
        ),
    )
    create_batch(store, batch)
    for number, person in enumerate(PERSONS):
        folder = layout.report_pictures(layout.REPORT)
        store.write(layout.report_picture(folder, number), person.crop)
    store.write(f"{layout.ANALYSIS}/occupancy.csv", b"counts that include everybody")
    store.write(layout.REPORT, "".join(person.person_id for person in PERSONS).encode())
    store.write(layout.dry_run_path("a", "f2"), b"a drawn frame")


def _leave_traces(store: ObjectStore, person: Person) -> None:
    digest = crop_sha256(person.crop)
    asked = AskedCrop(person.shard_id, Crop(person.person_id, person.crop))
    kept = KeptAnswer(digest, person.shard_id, said(), {"model": "m"})
    entry = JournalEntry(digest, QUESTION, said(), "m", "1", "x", None, 1.0, 1.0, 0.1)
    record_egress(store, egress_of(f"request-{digest[:8]}", [asked], "m", 1767225600.0))
    if person.index == 0:
        merge_egress(store)
    AnswerIndex(store, "gemini", QUESTION).add([kept])
    write_in_flight(store, "smolvlm", person.shard_id, QUESTION, [kept])
    write_journal(store, person.shard_id, f"{digest[:8]}", [entry])
    append(store, [decision(person, kind="value", attribute="gender", value="female")])
    log = {"message": f"person {person.person_id}: no answer", "crop": digest}
    before = store.read(layout.LOG) if store.exists(layout.LOG) else b""
    store.write(layout.LOG, before + f"{json.dumps(log)}\n".encode())
    store.write(f"{layout.EVALUATION}/worst-{digest[:8]}.txt", person.person_id.encode())
    # What an attempt that was killed has left.
    store.write(
        f"persons/{person.shard_id}.001-{digest[:8]}.parquet", store.read(_persons(store, person.shard_id))
    )


def decision(person: Person, **content: Any) -> Decision:
    about = {"shard_id": person.shard_id, "frame_key": person.frame_key, "bbox": BOXES[person.index]}
    return Decision.model_validate(
        {"reviewer": "ann", "tool": "test", "detection": "001-00000000", **about, **content}
    )


def _persons(store: ObjectStore, shard_id: str) -> str:
    record = json.loads(store.read(layout.commit_path(shard_id)))
    return next(entry["path"] for entry in record["objects"] if entry["kind"] == "persons")


def _preview(store: ObjectStore, shard_id: str, frame_key: str) -> None:
    path = layout.commit_path(shard_id)
    record = json.loads(store.read(path))
    drawn = jpeg(1000)
    preview = layout.preview_path(shard_id, record["attempt_id"], frame_key)
    store.write(preview, drawn)
    record["objects"].append(
        {
            "kind": "preview",
            "path": preview,
            "size_bytes": len(drawn),
            "sha256": crop_sha256(drawn),
            "count": 1,
        }
    )
    store.write(path, json.dumps(record).encode())
