"""Requests to a bucket are counted one by one, those included that the client repeats by itself."""

from __future__ import annotations

import pytest

from actors.storage.object_store import ObjectStore
from actors.storage.request_counts import NewRequests
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import STORAGE_ERRORS
from tests.servers.lossy_proxy import lossy_proxy


def test_requests_to_a_bucket_are_counted_by_operation_and_result(bucket: str):
    store = ObjectStore(f"{bucket}/out")
    requests = NewRequests()
    requests.take()
    store.write("a/b.txt", b"content")
    assert store.read("a/b.txt") == b"content"
    with pytest.raises(FileNotFoundError):
        store.read("a/none.txt")
    assert [found.path for found in store.list("a")] == ["a/b.txt"]
    counted = requests.take()
    assert counted["PutObject", "ok"] == 1
    # A missing object is an answer and no error of the store.
    assert counted["GetObject", "ok"] == 2
    assert counted["ListObjectsV2", "ok"] >= 1
    assert {result for _, result in counted} == {"ok"}
    assert requests.take() == {}


def test_an_answer_that_is_lost_counts_as_failed_and_the_repetition_as_well(s3, s3_environment, bucket: str):
    # aiohttp sends a request once more by itself if a connection that it has used before is closed.
    with lossy_proxy(s3.endpoint_url, losses=2) as (proxy, lost):
        store = ObjectStore(f"{bucket}/out", StorageSettings(endpoint_url=proxy, retries=2, timeout_s=20))
        requests = NewRequests()
        requests.take()
        store.write("b.txt", b"content")
        assert lost == ["PUT", "PUT"]
        counted = requests.take()
    assert counted["PutObject", "failed"] >= 1
    assert counted["PutObject", "ok"] == 1


def test_a_refusal_is_counted_as_one(s3, s3_environment, bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = ObjectStore(f"{bucket}/out", StorageSettings(endpoint_url=s3.endpoint_url, timeout_s=19))
    requests = NewRequests()
    requests.take()
    with pytest.raises(STORAGE_ERRORS):
        store.write("b.txt", b"content")
    assert requests.take()["PutObject", "refused"] == 1
