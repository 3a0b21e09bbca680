"""The committer, without a cluster: one attempt wins, and the others leave no objects behind."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.commit.committed_shard import load_committed
from actors.commit.committer import Committer
from actors.commit.preview_frames import PreviewFrames
from actors.commit.previews import preview_of_block
from actors.commit.settings import OutputSettings
from actors.read.listing import list_shards
from actors.read.settings import InputSettings
from actors.records import FRAMES_SCHEMA, PERSONS_SCHEMA, Annotation, Shard
from actors.shard_block import ShardBlock, ShardTask
from actors.storage.commit_record import CommitRecord, read_record
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.tables import annotations_table
from tests.support import bad_inputs as bad

SCHEMA = AttributeSchema(SchemaSettings())
PRINTS = {"detect": "d", "person_json": "p", "smolvlm": "s"}


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "out"), StorageSettings())


def committer(store: ObjectStore, prints=PRINTS, **settings) -> Committer:
    return Committer(store, OutputSettings(**settings), SCHEMA, dict(prints))


def values() -> dict:
    found = {}
    for attribute in SCHEMA:
        found[attribute.name] = attribute.values[0]
    return found


def block(kept: int = 2, work: str = "detect", replaces: str | None = None, attempt: int = 1) -> ShardBlock:
    """Return shard "s" with one frame: `kept` kept people, all annotated, and one dropped person."""
    shard = Shard("s", "in/s.tar", "webdataset", "etag", 10)
    frame = {"shard_id": "s", "frame_key": "f", "width": 64, "height": 48, "detected": kept + 1}
    frames = pa.Table.from_pylist([frame | {"kept": kept, "status": "ok"}], FRAMES_SCHEMA)
    people = [
        {
            "shard_id": "s",
            "frame_key": "f",
            "person_index": index,
            "bbox": np.array([0, 0, 0.5, 0.5], np.float32),
            "score": 0.5,
            "kept": index < kept,
            "drop_reason": None if index < kept else "max_persons",
            "crop": b"crop" if index < kept else None,
        }
        for index in range(kept + 1)
    ]
    persons = pa.Table.from_pylist(people, PERSONS_SCHEMA)
    answers = [Annotation("ok", values=values())] * kept
    provenance = {"model": "m", "model_version": "1", "prompt_sha256": "x"}
    annotations = annotations_table(persons.filter(persons["kept"]), answers, SCHEMA, provenance)
    return ShardBlock(
        ShardTask(shard, work, replaces, attempt),
        frames,
        persons,
        {"smolvlm": annotations},
        () if work == "write" else ("smolvlm",),
    )


def committed_attempt(store: ObjectStore) -> str:
    return record_of(store).attempt_id


def record_of(store: ObjectStore) -> CommitRecord:
    return read_record(store, "s")[0]


def files(store: ObjectStore) -> set[str]:
    root = Path(store.uri)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_record_names_every_object_with_its_size_and_checksum(store):
    drawn = replace(block(), previews={"f": bad.jpeg()})
    summary = committer(store).commit(drawn)
    record = record_of(store)
    assert (summary.state, summary.counts, summary.annotators) == (
        "done",
        record.counts,
        {"smolvlm": {"ok": 2}},
    )
    assert (record.counts.frames_ok, record.counts.detected, record.counts.kept) == (1, 3, 2)
    assert record.counts.dropped == {"max_persons": 1}
    assert record.fingerprints == PRINTS
    kinds = [entry.kind for entry in record.objects]
    assert sorted(kinds) == ["annotations/smolvlm", "frames", "json", "persons", "preview"]
    for entry in record.objects:
        if entry.kind == "json":
            assert entry.count == 2
            continue
        content = store.read(entry.path)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size_bytes, entry.sha256)


def test_of_two_first_attempts_one_wins_and_the_other_leaves_nothing(store):
    assert committer(store).commit(block()).state == "done"
    before, found = record_of(store), files(store)
    summary = committer(store).commit(block(kept=1))
    assert (summary.state, summary.counts) == ("done", before.counts)
    assert record_of(store) == before
    assert files(store) == found


def test_an_attempt_that_loses_while_it_writes_deletes_its_objects(store):
    class Late(ObjectStore):
        """A store in which another attempt commits just before this attempt writes its commit record."""

        def create(self, path, content):
            committer(store).commit(block())
            return super().create(path, content)

    late = Late(store.uri, StorageSettings())
    summary = committer(late).commit(block(kept=1))
    assert summary.state == "done"
    assert summary.counts.kept == 2
    named = {entry.path for entry in record_of(store).objects}
    data = {path for path in files(store) if path.startswith(("frames", "persons", "annotations"))}
    assert data <= named
    # Names of documents don't contain the attempt, so the winner's documents must still be there.
    assert {p for p in files(store) if p.startswith("json/")} == {"json/s/f/0.json", "json/s/f/1.json"}


def test_a_newer_attempt_replaces_the_objects_and_the_documents_of_people_no_longer_kept(store):
    committer(store).commit(block(kept=3))
    before = record_of(store)
    committer(store).commit(block(kept=1, replaces=committed_attempt(store), attempt=2))
    after = record_of(store)
    assert (after.attempt, after.counts.kept) == (2, 1)
    gone = {entry.path for entry in before.objects if entry.kind != "json"}
    assert not gone & files(store)
    assert {p for p in files(store) if p.startswith("json/")} == {"json/s/f/0.json"}


def test_a_failed_shard_keeps_its_reason_and_its_frames_and_no_output(store):
    broken = block().failed("truncated within a header")
    summary = committer(store).commit(broken)
    record = record_of(store)
    assert summary.state == record.state == "failed"
    assert record.error == "truncated within a header"
    assert (record.counts.frames, record.counts.frames_failed, record.counts.kept) == (1, 1, 0)
    assert [entry.kind for entry in record.objects] == ["frames"]
    assert record.annotators == {}


def test_a_failure_that_is_committed_again_is_still_a_failure(store):
    # The worker died after it had published the failure, and Ray ran the commit once more.
    broken = block().failed("truncated within a header")
    committer(store).commit(broken)
    again = committer(store).commit(broken)
    assert (again.state, again.error) == ("failed", "truncated within a header")


def test_a_shard_that_could_not_be_read_at_all_has_a_record_alone(store):
    nothing = ShardBlock(block().task).failed("not a tar")
    committer(store).commit(nothing)
    assert record_of(store).objects == ()
    assert files(store) == {"commits/s.json"}


def test_a_shard_that_fails_after_it_was_done_keeps_none_of_its_old_output(store):
    committer(store).commit(block())
    broken = block(replaces=committed_attempt(store), attempt=2).failed("the new tar is truncated")
    committer(store).commit(broken)
    assert record_of(store).state == "failed"
    assert not [p for p in files(store) if p.startswith(("json/", "persons/", "annotations/"))]


def test_new_answers_leave_frames_and_persons_where_they_are(store):
    first = replace(block(), previews={"f": bad.jpeg()})
    committer(store).commit(first)
    before = record_of(store)
    prints = PRINTS | {"smolvlm": "new"}
    committer(store, prints).commit(block(work="annotate", replaces=committed_attempt(store), attempt=2))
    after = record_of(store)
    for kind in ("frames", "persons"):
        assert after.object(kind) == before.object(kind)
    assert after.object("annotations/smolvlm").path != before.object("annotations/smolvlm").path
    assert after.fingerprints == prints
    assert {e.path for e in after.objects if e.kind != "json"} == {
        p for p in files(store) if not p.startswith(("commits/", "json/"))
    }


def test_documents_become_a_tar_and_files_again_without_new_answers(store):
    committer(store).commit(block())
    answers = record_of(store).object("annotations/smolvlm")
    documents = {p: store.read(p) for p in files(store) if p.startswith("json/")}
    tarred = PRINTS | {"person_json": "tar"}
    committer(store, tarred, person_json="tar").commit(
        block(work="write", replaces=committed_attempt(store), attempt=2)
    )
    assert {p for p in files(store) if p.startswith("json/")} == {"json/s.tar"}
    assert record_of(store).object("annotations/smolvlm") == answers
    assert record_of(store).fingerprints == tarred
    with tarfile.open(fileobj=io.BytesIO(store.read("json/s.tar"))) as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive}
    assert sorted(members.values()) == sorted(documents.values())
    committer(store).commit(block(work="write", replaces=committed_attempt(store), attempt=3))
    assert {p: store.read(p) for p in files(store) if p.startswith("json/")} == documents


def test_documents_that_are_no_longer_wanted_are_removed(store):
    committer(store).commit(block())
    committer(store, person_json="none").commit(
        block(work="write", replaces=committed_attempt(store), attempt=2)
    )
    assert not [p for p in files(store) if p.startswith("json/")]


def test_a_document_holds_what_was_answered(store):
    committer(store).commit(block())
    document = json.loads(store.read("json/s/f/0.json"))
    assert document["person_index"] == 0
    assert document["annotations"]["SmolVLM"]["status"] == "ok"


def test_a_record_deleted_meanwhile_leaves_the_shard_to_do(store):
    committer(store).commit(block())
    before = committed_attempt(store)
    store.delete(["commits/s.json"])
    summary = committer(store).commit(block(replaces=before, attempt=2))
    assert (summary.state, files(store) & {"commits/s.json"}) == ("postponed", set())


def test_previews_stay_for_a_first_annotator_and_go_when_it_answers_anew(store):
    counted = replace(block(), annotations={}, annotated=(), previews={"f": bad.jpeg()})
    committer(store, {k: v for k, v in PRINTS.items() if k != "smolvlm"}).commit(counted)
    drawn = {path for path in files(store) if path.startswith("previews/")}
    assert len(drawn) == 1
    committer(store).commit(block(work="annotate", replaces=committed_attempt(store), attempt=2))
    assert drawn <= files(store)
    assert record_of(store).object("preview") is not None
    committer(store).commit(block(work="annotate", replaces=committed_attempt(store), attempt=3))
    assert not drawn & files(store)


@pytest.fixture
def source(tmp_path: Path) -> Shard:
    """The input of shard "s" with its frame."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "s.tar").write_bytes(bad.tar({"e.jpg": bad.jpeg(seed=1), "f.jpg": bad.jpeg(seed=2)}))
    (shard,) = list_shards(InputSettings(uri=str(folder)), StorageSettings())
    return shard


def committed_with_preview(store: ObjectStore, source: Shard) -> bytes:
    """Commit shard "s" without an annotator, and return the preview."""
    first = replace(block(), annotations={}, annotated=(), previews={"f": bad.jpeg(seed=2)})
    committer(store).commit(replace(first, task=replace(first.task, shard=source)))
    (preview,) = (entry for entry in record_of(store).objects if entry.kind == "preview")
    return store.read(preview.path)


def answered_later(store: ObjectStore, source: Shard) -> ShardBlock:
    again = block(work="annotate", replaces=committed_attempt(store), attempt=2)
    return replace(again, task=replace(again.task, shard=source))


def test_previews_get_the_labels_of_an_annotator_that_is_enabled_later(store: ObjectStore, source: Shard):
    before = committed_with_preview(store, source)
    frames = PreviewFrames(InputSettings(), StorageSettings())
    block = answered_later(store, source)
    replace(committer(store), preview_frames=frames).commit(block)
    (path,) = (path for path in files(store) if path.startswith("previews/"))
    assert path == record_of(store).object("preview").path
    ((_, expected),) = preview_of_block(
        replace(block, previews={"f": bad.jpeg(seed=2)}), SCHEMA, OutputSettings().preview_max_side_px
    )
    assert store.read(path) == expected != before


def test_previews_stay_as_they_are_where_the_input_has_changed(store: ObjectStore, source: Shard):
    before = committed_with_preview(store, source)
    Path(source.uri).write_bytes(bad.tar({"f.jpg": bad.jpeg(seed=3)}))
    frames = PreviewFrames(InputSettings(), StorageSettings())
    replace(committer(store), preview_frames=frames).commit(answered_later(store, source))
    (path,) = (path for path in files(store) if path.startswith("previews/"))
    assert store.read(path) == before


def test_only_detection_changes_what_a_record_says_of_the_input_and_of_detection(store):
    committer(store).commit(block())
    before = record_of(store)
    newer = block(work="annotate", replaces=committed_attempt(store), attempt=2)
    changed = replace(
        newer, task=replace(newer.task, shard=replace(newer.task.shard, etag="newer", size_bytes=99))
    )
    committer(store, PRINTS | {"detect": "new zones", "smolvlm": "new prompt"}).commit(changed)
    after = record_of(store)
    assert after.input == before.input
    assert after.fingerprints == PRINTS | {"smolvlm": "new prompt"}


def test_documents_show_what_each_annotator_was_asked(store):
    committer(store).commit(block())
    asked = json.loads(store.read("json/s/f/0.json"))["annotations"]["SmolVLM"]
    changed = SchemaSettings(
        attributes={
            "gender": {"type": "boolean"},
            "bag": {"type": "boolean"},
            "mask": None,
        }
    )
    later = Committer(store, OutputSettings(), AttributeSchema(changed), PRINTS | {"person_json": "again"})
    stored = load_committed(block(work="write", replaces=committed_attempt(store), attempt=2), store)[0]
    later.commit(stored)
    assert json.loads(store.read("json/s/f/0.json"))["annotations"]["SmolVLM"] == asked
