"""A plan reads one listing and one index, and never trusts the index where the listing disagrees with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.storage import layout, record_index
from actors.storage.commit_record import CommitRecord, InputIdentity, publish, read_record
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import ListingDigest, read_records

RECORDS = 70
"""More than the number of records from which an index is written."""


def record(shard_id: str, attempt: int = 1) -> CommitRecord:
    identity = InputIdentity(
        uri=f"{shard_id}.tar", format="webdataset", etag="e", size_bytes=1, start=0, stop=None
    )
    return CommitRecord(
        shard_id=shard_id, state="done", attempt=attempt, attempt_id=f"{attempt:03d}-0", input=identity
    )


def fill(store: ObjectStore) -> dict[str, str]:
    return {f"s{i:03d}": publish(store, record(f"s{i:03d}"), None) for i in range(RECORDS)}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


def found_in(store: ObjectStore, keep_index: bool = False) -> dict[str, tuple[int, str]]:
    return {r.shard_id: (r.attempt, etag) for r, etag in read_records(store, keep_index)}


def garble_unnoticed(path: Path) -> None:
    """Garble a file but keep its size and time: reading it fails, and the listing is unchanged."""
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_indexed_records_are_not_read_again(store, tmp_path):
    etags = fill(store)
    first = found_in(store, keep_index=True)
    assert {name: etag for name, (_, etag) in first.items()} == etags
    for name in etags:
        garble_unnoticed(tmp_path / layout.commit_path(name))
    assert found_in(store) == first


def test_records_that_are_new_changed_or_gone_are_seen(store):
    etags = fill(store)
    found_in(store, keep_index=True)
    changed = publish(store, record("s007", attempt=2), etags["s007"])
    added = publish(store, record("s0075"), None)
    store.delete([layout.commit_path("s009")])
    found = found_in(store)
    assert found["s007"] == (2, changed)
    assert found["s0075"] == (1, added)
    assert "s009" not in found
    assert len(found) == RECORDS


def test_a_new_index_has_old_and_new_entries_and_none_of_deleted_records(store, tmp_path):
    etags = fill(store)
    found_in(store, keep_index=True)
    store.delete([layout.commit_path("s009")])
    publish(store, record("s007", attempt=2), etags["s007"])
    for number in range(RECORDS):
        publish(store, record(f"s{number:03d}-b"), None)
    found = found_in(store, keep_index=True)
    assert len(found) == 2 * RECORDS - 1
    for name in found:
        garble_unnoticed(tmp_path / layout.commit_path(name))
    assert found_in(store) == found


def test_more_new_entries_than_are_held_in_memory_are_indexed_in_order(store, tmp_path, monkeypatch):
    monkeypatch.setattr(record_index, "_ROWS", 32)
    etags = fill(store)
    found_in(store, keep_index=True)
    for name in etags:
        garble_unnoticed(tmp_path / layout.commit_path(name))
    assert {name: etag for name, (_, etag) in found_in(store).items()} == etags


def test_a_listing_has_another_digest_once_a_record_was_written_or_deleted(store):
    etags = fill(store)
    digest = ListingDigest()
    assert len(list(read_records(store, digest=digest))) == RECORDS
    assert ListingDigest.now(store).value == digest.value
    publish(store, record("s007", attempt=2), etags["s007"])
    changed = ListingDigest.now(store).value
    store.delete([layout.commit_path("s009")])
    assert len({digest.value, changed, ListingDigest.now(store).value}) == 3


def test_a_broken_index_is_not_needed(store):
    etags = fill(store)
    store.write(layout.COMMIT_INDEX, b"PAR1 and then something else")
    assert {name: etag for name, (_, etag) in found_in(store).items()} == etags


def test_readers_and_small_outputs_write_no_index(store):
    fill(store)
    found_in(store)
    assert not store.exists(layout.COMMIT_INDEX)


def test_an_index_in_a_bucket_gives_the_etags_that_replace_records(bucket):
    store = ObjectStore(f"{bucket}/out")
    etags = fill(store)
    found_in(store, keep_index=True)
    assert store.exists(layout.COMMIT_INDEX)
    found = found_in(store)
    assert {name: etag for name, (_, etag) in found.items()} == etags
    publish(store, record("s003", attempt=2), found["s003"][1])
    again = read_record(store, "s003")
    assert again is not None
    assert found_in(store)["s003"] == (2, again[1])
