"""The sweep deletes the objects of killed attempts, and keeps those that are or may still be committed."""

from __future__ import annotations

import os
import time

import pytest

from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from jobs.run import sweep as module
from tests.commit.test_committer import block, committed_attempt, committer, files
from tests.support import job
from tests.support.committed import Found, said, write_output


class KilledError(Exception):
    """Stands for a kill -9 at the point where it is raised."""


class DiesBeforeTheRecord(ObjectStore):
    def create(self, path, content):
        raise KilledError


class DiesAfterTheRecord(ObjectStore):
    def delete(self, paths):
        raise KilledError


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def store(output) -> ObjectStore:
    return ObjectStore(str(output))


def sweep(store: ObjectStore) -> int:
    named = {hash(entry.path) for record, _ in read_records(store) for entry in record.objects}
    return module.sweep(store, named)


def die(store: ObjectStore, **given) -> None:
    with pytest.raises(KilledError):
        committer(store).commit(block(**given))


def test_nothing_is_deleted_where_nobody_died(store):
    committer(store).commit(block())
    committer(store).commit(block(replaces=committed_attempt(store), attempt=2))
    before = files(store)
    assert sweep(store) == 0
    assert files(store) == before


def test_what_was_committed_after_the_records_were_read_is_not_deleted(store):
    committer(store).commit(block())
    before = files(store)
    assert module.sweep(store, named=set()) == 0
    assert files(store) == before


def test_an_attempt_killed_before_its_record_is_deleted_once_another_counts(store, output):
    die(DiesBeforeTheRecord(store.uri))
    before = files(store)
    assert sweep(store) == 0, "the attempt may still be running"
    assert files(store) == before
    committer(store).commit(block())
    assert len(job.debris(output)) == 3
    assert sweep(store) == 3
    assert not job.debris(output)


def test_what_a_killed_commit_had_replaced_is_deleted(store, output):
    committer(store).commit(block())
    die(DiesAfterTheRecord(store.uri), replaces=committed_attempt(store), attempt=2)
    named = files(store) - job.debris(output)
    assert len(job.debris(output)) == 3
    assert sweep(store) == 3
    assert files(store) == named


def test_an_attempt_that_may_be_at_work_beside_the_committed_one_is_left_alone(store, output):
    committer(store).commit(block())
    ahead = output / "persons/s.002-0123abcd.parquet"
    ahead.write_bytes(b"crops")
    strange = output / "persons/notes.txt"
    strange.write_bytes(b"somebody's")
    assert sweep(store) == 0
    assert ahead.exists()
    assert strange.exists()


def test_people_of_a_shard_that_failed_since_are_deleted(store, output):
    committer(store).commit(block())
    failed = block(replaces=committed_attempt(store), attempt=2).failed("the tar is truncated")
    with pytest.raises(KilledError):
        committer(DiesAfterTheRecord(store.uri)).commit(failed)
    assert sweep(store) == 3
    assert not job.debris(output)
    assert list((output / "persons").iterdir()) == []


def age(output, pattern: str, hours: float) -> None:
    """Make the files that match the pattern look as if they had been written some hours ago."""
    then = time.time() - hours * 3600
    found = [path for path in output.glob(pattern) if path.is_file()]
    assert found
    for path in found:
        os.utime(path, (then, then))


def test_a_single_leftover_of_a_kind_is_deleted(store, output):
    committer(store).commit(block())
    left = output / "annotations/gemini/s.001-0123abcd.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"answers")
    assert sweep(store) == 1
    assert not left.exists()


def test_attempts_above_a_count_that_started_again_are_deleted(store, output):
    committer(store).commit(block())
    committer(store).commit(block(replaces=committed_attempt(store), attempt=2))
    store.delete([layout.commit_path("s")])
    age(output, "*/*.parquet", 0.1)
    age(output, "*/*/*.parquet", 0.1)
    committer(store).commit(block())
    assert {path.rpartition(".002-")[1] for path in job.debris(output)} == {".002-"}
    assert sweep(store) == 3
    assert not job.debris(output)


def test_a_shard_without_a_record_is_deleted_with_its_documents_when_no_run_can_be_at_it(store, output):
    person = Found((0, 0, 1, 1), answers={"smolvlm": said()})
    write_output(store, {"s": {"f": [person, person]}})
    write_output(store, {"t": {"f": [person]}}, person_json="tar")
    store.delete(layout.commit_path(shard) for shard in "st")
    assert sweep(store) == 0, "an attempt may be about to commit it"
    age(output, "**/*", 25)
    assert sweep(store) == 2 * 3 + 2 + 1
    assert files(store) == {"run.json", "commits/.lock"}


def test_temporary_files_of_killed_writes_are_deleted_when_they_are_old(store, output):
    committer(store).commit(block())
    committer(store).commit(block(replaces=committed_attempt(store), attempt=2))
    names = [f"{folder}.{'0' * 32}.tmp" for folder in ("", "commits/", "persons/", "annotations/smolvlm/")]
    for name in names:
        (output / name).write_bytes(b"half")
    before = files(store)
    assert sweep(store) == 0
    age(output, "**/.*.tmp", 25)
    assert "commits/.lock" in before
    age(output, "commits/.lock", 25)
    assert sweep(store) == len(names)
    assert files(store) == before - set(names)
