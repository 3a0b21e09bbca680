"""The sweep deletes the objects of killed attempts, and keeps those that are or may still be committed."""

from __future__ import annotations

import pytest

from actors.storage.object_store import ObjectStore
from jobs.run.sweep import sweep
from tests.commit.test_committer import block, committed_attempt, committer, files
from tests.support import job


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


def die(store: ObjectStore, **given) -> None:
    with pytest.raises(KilledError):
        committer(store).commit(block(**given))


def test_nothing_is_deleted_where_nobody_died(store):
    committer(store).commit(block())
    committer(store).commit(block(replaces=committed_attempt(store), attempt=2))
    before = files(store)
    assert sweep(store) == 0
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
