"""The requests of a commit: a constant number and one per object, whatever else is in the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from actors.storage.object_store import ObjectStore
from tests.servers.seaweedfs import S3Server, count_requests
from tests.support.committed import Found, said, write_output

PERSONS = 3


@pytest.fixture
def requests_of(s3: S3Server) -> Callable[[Callable[[], Any]], dict[str, int]]:
    """A function that counts the requests of another."""

    def counted(work: Callable[[], Any]) -> dict[str, int]:
        before = count_requests(s3.metrics_url)
        work()
        return dict(count_requests(s3.metrics_url) - before)

    return counted


def _write(store: ObjectStore, person_json: str, *names: str) -> None:
    persons = [Found((0.1, 0.1, 0.4, 0.9), answers={"smolvlm": said()})] * PERSONS
    write_output(store, {name: {"f": persons} for name in names}, person_json=person_json)


@pytest.mark.parametrize(("person_json", "documents"), [("none", 0), ("tar", 1), ("files", PERSONS)])
def test_requests_of_a_commit_are_those_of_its_objects_and_its_record(
    bucket: str, requests_of, person_json, documents
):
    store = ObjectStore(f"{bucket}/out")
    _write(store, person_json, "first")
    # The frames, persons and answers; the record; the documents and once more the record; and run.json.
    puts = 3 + 1 + (documents + 1 if documents else 0) + 1
    # One of the GETs is that of `write_output`, which looks whether the shard has a record.
    expected = {"GET": 2, "PUT": puts}
    assert requests_of(lambda: _write(store, person_json, "second")) == expected
    _write(store, person_json, *(f"other-{number}" for number in range(30)))
    assert requests_of(lambda: _write(store, person_json, "last")) == expected


def test_a_shard_is_committed_again_with_one_request_to_delete_all_that_it_replaces(bucket: str, requests_of):
    store = ObjectStore(f"{bucket}/out")
    _write(store, "tar", "a", "b")
    asked = requests_of(lambda: _write(store, "tar", "a"))
    assert asked.pop("GET") <= 6
    assert asked == {"PUT": 7, "DELETE": 1}
