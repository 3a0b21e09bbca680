"""Documents have one path per person, and agree with the commit record after any race and any kill."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from actors.commit.committed_shard import load_committed, shard_from_record
from actors.records import Annotation
from actors.shard_block import ShardBlock, ShardTask
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from actors.storage.tables import annotations_table
from jobs.run.plan import Committed, make_plan
from tests.commit.test_committer import (
    PRINTS,
    SCHEMA,
    block,
    committed_attempt,
    committer,
    files,
    record_of,
    store,
    values,
)

__all__ = ["store"]


class Killed(BaseException):
    """The worker's process ends here."""


class DiesAtDocuments(ObjectStore):
    """A store whose user dies while it writes documents, when some of them are there."""

    def write_many(self, given):
        given = list(given)
        if given and given[0][0].startswith("json/"):
            super().write_many(given[:1])
            raise Killed
        super().write_many(given)


def answering(model: str, store: ObjectStore, attempt: int) -> ShardBlock:
    """Return the committed shard with new answers, which name the model."""
    given = block(work="annotate", replaces=committed_attempt(store), attempt=attempt)
    persons = given.kept_persons()
    provenance = {"model": model, "model_version": "1", "prompt_sha256": "x"}
    answers = [Annotation("ok", values=values())] * persons.num_rows
    return given.with_answers("smolvlm", annotations_table(persons, answers, SCHEMA, provenance))


def models_in_documents(store: ObjectStore) -> set[str]:
    found = [json.loads(store.read(path)) for path in files(store) if path.startswith("json/")]
    return {document["annotations"]["SmolVLM"]["model"] for document in found}


def test_an_attempt_that_is_overtaken_while_it_writes_documents_leaves_those_of_the_other(store):
    class Overtaken(ObjectStore):
        """A store on which another attempt commits completely between two documents of this one."""

        is_overtaken = False

        def write_many(self, given):
            given = list(given)
            if given and given[0][0].startswith("json/") and not self.is_overtaken:
                self.is_overtaken = True
                super().write_many(given[:1])
                committer(store).commit(answering("the later one", store, 3))
            super().write_many(given)

    committer(store).commit(block())
    slow = Overtaken(store.uri)
    summary = committer(slow).commit(answering("the earlier one", store, 2))
    assert slow.is_overtaken
    assert summary.state == "done"
    assert (record_of(store).attempt, record_of(store).documents) == (3, "written")
    assert models_in_documents(store) == {"the later one"}


@pytest.mark.parametrize("person_json", ["files", "tar"])
def test_documents_of_a_killed_worker_are_written_by_the_next_run(store, person_json):
    committer(store, person_json=person_json).commit(block())
    with pytest.raises(Killed):
        committer(DiesAtDocuments(store.uri), person_json=person_json).commit(answering("newer", store, 2))
    record = record_of(store)
    assert (record.attempt, record.documents) == (2, "due")
    committed = {found.shard_id: Committed.of(found) for found, _ in read_records(store)}
    plan = make_plan([shard_from_record(record)], committed, PRINTS)
    assert [task.work for task in plan.tasks] == ["write"]
    loaded, _ = load_committed(ShardBlock(plan.tasks[0]), store)
    committer(store, person_json=person_json).commit(loaded)
    assert record_of(store) == record.model_copy(update={"documents": "written"}), "nothing else has changed"
    if person_json == "files":
        assert models_in_documents(store) == {"newer"}
    else:
        with tarfile.open(fileobj=io.BytesIO(store.read("json/s.tar"))) as archive:
            assert all(b'"model": "newer"' in archive.extractfile(m).read() for m in archive)


@pytest.mark.parametrize("person_json", ["files", "tar"])
def test_documents_of_a_killed_worker_are_written_by_the_same_run(store, person_json):
    committer(store, person_json=person_json).commit(block())
    given = answering("newer", store, 2)
    with pytest.raises(Killed):
        committer(DiesAtDocuments(store.uri), person_json=person_json).commit(given)
    record = record_of(store)
    assert record.documents == "due"
    # Ray gives the block to another worker.
    summary = committer(store, person_json=person_json).commit(given)
    assert summary.state == "done"
    assert record_of(store) == record.model_copy(update={"documents": "written"}), "nothing else has changed"
    documents = {path: store.read(path) for path in files(store) if path.startswith("json/")}
    assert len(documents) == (2 if person_json == "files" else 1)
    assert all(b'"model": "newer"' in content for content in documents.values())


def test_documents_that_are_no_longer_what_the_record_says_need_a_new_attempt(store):
    committer(store).commit(block())
    with pytest.raises(Killed):
        committer(DiesAtDocuments(store.uri)).commit(answering("newer", store, 2))
    path, before = store.full("commits/s.json"), record_of(store)
    entry = before.object("json").model_copy(update={"sha256": "of an earlier form"})
    entries = tuple(entry if other.kind == "json" else other for other in before.objects)
    Path(path).write_text(before.model_copy(update={"objects": entries}).model_dump_json())
    task = ShardTask(shard_from_record(before), "write", before.attempt_id, 3)
    loaded, _ = load_committed(ShardBlock(task), store)
    committer(store).commit(loaded)
    after = record_of(store)
    assert (after.attempt, after.documents, after.object("json")) == (3, "written", before.object("json"))
    assert models_in_documents(store) == {"newer"}


def test_documents_of_people_no_longer_kept_go_even_if_a_worker_was_killed_in_between(store):
    committer(store).commit(block(kept=3))
    task = ShardTask(block().task.shard, "detect", committed_attempt(store), 2)
    with pytest.raises(Killed):
        committer(DiesAtDocuments(store.uri)).commit(replace(block(kept=2), task=task))
    committer(store).commit(block(kept=1, replaces=committed_attempt(store), attempt=3))
    assert {path for path in files(store) if path.startswith("json/")} == {"json/s/f/0.json"}


def test_a_commit_lists_nothing_so_that_it_costs_the_same_beside_many_others(store):
    class Unlisted(ObjectStore):
        def list(self, prefix=""):
            raise AssertionError(f"a commit must not list {prefix}")

    committer(store).commit(block())
    committer(Unlisted(store.uri)).commit(answering("newer", store, 2))
    committer(Unlisted(store.uri)).commit(block(kept=1, replaces=committed_attempt(store), attempt=3))
    assert record_of(store).attempt == 3
